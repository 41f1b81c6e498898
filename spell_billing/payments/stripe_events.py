"""Reads Stripe's Events: every one since the last reading, a bounded number of pages at a time.

Stripe lists events newest first. A reading goes from the newest down to where the last one began, less an
overlap; only when it has come to its end does the next one begin higher up. A page and the place after it are
written in one transaction.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from sqlalchemy.engine import Connection

from spell_billing.invoicing.gateway import Gateway
from spell_billing.ledger.ledger import Ledger
from spell_billing.payments.handler import receive
from spell_billing.payments.places import Budget, keep_place, list_page, read_place

WAY = "stripe events"
CURSOR = "stripe_events"
TYPES = (
    *("charge.refunded", "charge.refund.updated", "refund.failed", "refund.updated"),
    *("charge.dispute.created", "charge.dispute.updated", "charge.dispute.closed"),
    *("charge.dispute.funds_withdrawn", "charge.dispute.funds_reinstated"),
    *("credit_note.created", "credit_note.voided"),
    *("invoice.finalized", "invoice.marked_uncollectible", "invoice.overdue", "invoice.paid"),
    *("invoice.payment_action_required", "invoice.payment_failed", "invoice.voided"),
)
"""What is read. Not `invoice.updated`: each of our drafts makes some, and it tells no change of status."""

OVERLAP_SECONDS = 300
"""An event carries the time of its cause and can be listed somewhat later than one that is younger. What is
later than this is found by the daily reading of the invoices themselves."""

CLOCK_MARGIN_SECONDS = 3600
"""Where no event tells Stripe's time, ours is taken, less this."""

KEPT_DAYS = 29
"""Stripe keeps events for 30 days; one day is left for reading them."""


@dataclass(frozen=True, slots=True)
class Place:
    """How far the events are read, in Stripe's Unix seconds.

    Attributes:
        read_until: All events up to then were read.
        since: Where the reading under way ends.
        newest: `read_until` once the reading under way has ended.
        after: The last event that the reading under way has read; None when none is under way.
    """

    read_until: int
    since: int = 0
    newest: int = 0
    after: str | None = None

    @property
    def needed_since(self) -> int:
        """The oldest event that must still be at Stripe."""
        return self.since if self.after else self.read_until - OVERLAP_SECONDS


def begin_if_lost(connection: Connection, now: datetime) -> bool:
    """Read events from now on where Stripe no longer has all that were not read; return whether it is so.

    What was before is for a reading of the invoices.
    """
    place = read_place(connection, CURSOR, Place)
    oldest = now - timedelta(days=KEPT_DAYS)
    if place is not None and place.needed_since >= oldest.timestamp():
        return False
    keep_place(connection, CURSOR, Place(read_until=int(now.timestamp()) - CLOCK_MARGIN_SECONDS))
    return True


async def read_events(ledger: Ledger, gateway: Gateway, *, pages: int, budget: Budget) -> tuple[int, bool]:
    """Put all events since the last reading into the inbox, or as many as fit.

    At most `pages` requests of 100 events; `begin_if_lost` is called before. Return how many events were new,
    and whether the reading has ended.
    """
    new, complete = 0, False
    place = ledger.read(read_place, CURSOR, Place) or Place(0)
    while not complete and pages > 0 and budget.in_time:
        asked_at = int(datetime.now(UTC).timestamp())
        filters = {"types": list(TYPES), "created": {"gte": place.needed_since}}
        page = await list_page(gateway, "/v1/events", filters, place.after)
        if page is None:
            # The event that the next page follows is gone: begin this reading again.
            place = replace(place, after=None)
            continue
        events = page["data"]
        pages -= 1
        if place.after is None:
            newest = max((int(event["created"]) for event in events), default=0)
            newest = max(newest, place.read_until, asked_at - CLOCK_MARGIN_SECONDS)
            place = replace(place, since=place.needed_since, newest=newest)
        complete = not page["has_more"]
        place = Place(place.newest) if complete else replace(place, after=events[-1]["id"])
        with ledger.writing() as connection:
            new += receive(connection, events, WAY)
            keep_place(connection, CURSOR, place)
    return new, complete
