"""Lists the account's charges once a day, for refunds and disputes that no event told of.

Events are kept for 30 days: charges of the last 35 are listed, and of the last 400 after events were lost.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.engine import Connection

from spell_billing.invoicing.gateway import Gateway
from spell_billing.ledger.charges import read_charges
from spell_billing.ledger.ledger import Ledger
from spell_billing.payments.money_back import invoice_of_charge, read_again
from spell_billing.payments.places import keep_place, list_page, read_place
from spell_billing.payments.tick_budget import Budget

CURSOR = "stripe_charges"
EVERY = timedelta(hours=24)
USUAL, AFTER_A_LOSS = timedelta(days=35), timedelta(days=400)
_PAGE = 100


@dataclass(frozen=True, slots=True)
class Listing:
    """A reading of charges: when it started, how far back it goes (Unix seconds), and how far it is.

    `after` is the last charge that was listed, None before the first page; `done` once the end was reached.
    """

    started_at: float
    since: int
    after: str | None = None
    done: bool = False


def begin_if_due(connection: Connection, now: datetime, *, lost: bool) -> None:
    """Begin a reading once a day, and at once where events were lost."""
    last = read_place(connection, CURSOR, Listing)
    due = last is None or (last.done and now - datetime.fromtimestamp(last.started_at, UTC) >= EVERY)
    if due or lost:
        since = now - (AFTER_A_LOSS if lost else USUAL)
        keep_place(connection, CURSOR, Listing(now.timestamp(), int(since.timestamp())))


async def read_listed_charges(ledger: Ledger, gateway: Gateway, *, pages: int, budget: Budget) -> int:
    """Go on with the reading under way, if any.

    Returns:
        How many charges were found of which something new is known.

    Raises:
        StripeProblem: when Stripe does not answer; the place is kept.
        StripeAccountError: when the account refuses.
    """
    found = 0
    for _ in range(pages):
        with ledger.reading() as connection:
            listing = read_place(connection, CURSOR, Listing)
        if listing is None or listing.done or not budget.in_time:
            return found
        parameters = {"limit": _PAGE, "created": {"gte": listing.since}}
        page = await list_page(gateway, "/v1/charges", parameters, listing.after)
        charges = page["data"] if page else []
        for charge in _news(ledger, charges):
            invoice_id = await invoice_of_charge(ledger, gateway, charge)
            found += invoice_id is not None and await read_again(ledger, gateway, invoice_id)
        after = charges[-1]["id"] if charges else None
        with ledger.writing() as connection:
            done = page is None or not page["has_more"]
            keep_place(connection, CURSOR, replace(listing, after=after, done=done))
    return found


def _news(ledger: Ledger, listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return charges of which more went back, or less, than is known."""
    back = [charge for charge in listed if charge.get("amount_refunded") or charge.get("disputed")]
    if not back:
        return []
    with ledger.reading() as connection:
        read = read_charges(connection, charge_ids=[charge["id"] for charge in back])
    known = {each.charge_id: each for each in read}
    return [
        charge
        for charge in back
        if charge["id"] not in known
        or known[charge["id"]].refunded_cents != charge["amount_refunded"]
        or (charge.get("disputed") and known[charge["id"]].dispute is None)
    ]
