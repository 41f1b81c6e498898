"""Reads the invoices themselves, of all bills that Stripe may still collect.

For what events cannot tell: before the first event was read, after more than Stripe's 30 days of downtime,
and once a day for whatever slipped through. Where many of a month's invoices are unread they are listed, a
hundred a request; else each is retrieved.
"""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.engine import Connection

from spell_billing.core.month import Month
from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.lookups import created_since_close
from spell_billing.invoicing.payment_facts import is_unclear
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.unpaid import count_unread, unread_invoices, unsettled_months
from spell_billing.payments.places import keep_place, list_page, read_place
from spell_billing.payments.reasons import keep_invoices, retrieve_all
from spell_billing.payments.tick_budget import Budget

CURSOR = "stripe_invoices"
EVERY = timedelta(hours=24)
_AT_ONCE = 8
_PAGE = 100
_LISTING_PAYS = 50
"""List a month's invoices when more than one in so many is unread: a page brings a hundred."""

_FINALIZED_MARGIN = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Reading:
    """A reading and how far it is.

    Attributes:
        started_at: Invoices read since then are done with. Unix seconds.
        months: Those that are left, the first of them under way.
        listed_until: Of the month under way: list invoices created up to then; None: retrieve each.
        decided: Of the month under way: whether listing or not was chosen.
        after_invoice: The last one listed.
        after_bill: The id of the last bill whose invoice was retrieved.
    """

    started_at: float
    months: list[str] = field(default_factory=list)
    listed_until: int | None = None
    decided: bool = False
    after_invoice: str | None = None
    after_bill: int = 0

    @property
    def since(self) -> datetime:
        """When the reading started."""
        return datetime.fromtimestamp(self.started_at, UTC)


def read_reading(connection: Connection) -> Reading | None:
    """Return the latest reading, under way or ended; None where there was none."""
    return read_place(connection, CURSOR, Reading)


def begin_if_due(connection: Connection, now: datetime, *, lost: bool) -> None:
    """Begin a reading of what Stripe may still collect once a day, and at once where events were lost."""
    last = read_reading(connection)
    if lost or last is None or (not last.months and now - last.since >= EVERY):
        keep_place(connection, CURSOR, Reading(now.timestamp(), unsettled_months(connection)))


async def read_invoices(ledger: Ledger, gateway: Gateway, *, requests: int, budget: Budget) -> int:
    """Go on with the reading under way, if any.

    Returns:
        How many invoices were read.

    Raises:
        StripeProblem: when Stripe does not answer; what was read so far is written down.
        StripeAccountError: when the account refuses.
    """
    read = 0
    while requests > 0 and budget.in_time:
        with ledger.reading() as connection:
            reading = read_reading(connection)
            if reading is None or not reading.months:
                return read
            if not reading.decided:
                reading = _decided(connection, reading)
        if reading.listed_until is not None:
            read += await _list_some(ledger, gateway, reading)
            requests -= 1
        else:
            count = await _retrieve_some(ledger, gateway, reading)
            read += count
            requests -= max(count, 1)
    return read


def _decided(connection: Connection, reading: Reading) -> Reading:
    """Choose for the month under way whether to list its invoices."""
    unread = count_unread(connection, reading.months[0], reading.since)
    until, last = None, unread.last_finalized_at
    # A handful is retrieved as quickly, and more is learned of each.
    if last is not None and unread.bills > _AT_ONCE and unread.bills * _LISTING_PAYS > unread.invoices:
        until = int((last + _FINALIZED_MARGIN).timestamp())
    return replace(reading, decided=True, listed_until=until)


async def _list_some(ledger: Ledger, gateway: Gateway, reading: Reading) -> int:
    created = created_since_close(Month.parse(reading.months[0])) | {"lte": reading.listed_until}
    as_of = datetime.now(UTC)
    parameters: dict[str, Any] = {"limit": _PAGE, "created": created}
    page = await list_page(gateway, "/v1/invoices", parameters, reading.after_invoice)
    more = page is not None and page["has_more"]
    found = page["data"] if page else []
    with ledger.writing() as connection:
        # Of the unclear ones more must be known; they stay unread, and are retrieved.
        count = keep_invoices(connection, [each for each in found if not is_unclear(each)], as_of)
        after, until = (found[-1]["id"], reading.listed_until) if more else (None, None)
        keep_place(connection, CURSOR, replace(reading, after_invoice=after, listed_until=until))
    return count


async def _retrieve_some(ledger: Ledger, gateway: Gateway, reading: Reading) -> int:
    with ledger.reading() as connection:
        bills = unread_invoices(
            connection, reading.months[0], reading.since, after_id=reading.after_bill, limit=_AT_ONCE
        )
    as_of = datetime.now(UTC)
    found = await retrieve_all(gateway, [invoice_id for _, invoice_id in bills])
    with ledger.writing() as connection:
        keep_invoices(connection, [invoice for invoice in found if invoice is not None], as_of)
        if bills:
            following = replace(reading, after_bill=bills[-1][0])
        else:
            following = Reading(reading.started_at, reading.months[1:])
        keep_place(connection, CURSOR, following)
    return len(bills)
