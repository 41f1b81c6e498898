"""Lists the account's charges once a day, for refunds and disputes that no event told of.

Events are kept for 30 days: charges of the last 35 are listed, and of the last 400 after events were lost.
The place is kept, so a reading may take many ticks.
"""

import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.engine import Connection

from spell_billing.invoicing.gateway import Gateway
from spell_billing.ledger.charges import read_charges
from spell_billing.ledger.cursors import move_cursor, read_cursor
from spell_billing.ledger.ledger import Ledger
from spell_billing.payments.money_back import invoice_of_charge, read_again
from spell_billing.payments.tick_budget import Budget
from spell_billing.stripe_api.problems import Kind, StripeProblem

CURSOR = "stripe_charges"
EVERY = timedelta(hours=24)
USUAL, AFTER_A_LOSS = timedelta(days=35), timedelta(days=400)
_ENDPOINT, _PAGE = "GET /v1/charges", 100


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
    cursor = read_cursor(connection, CURSOR)
    last = Listing(**json.loads(cursor.value)) if cursor else None
    under_way = last is not None and (
        not last.done or now - datetime.fromtimestamp(last.started_at, UTC) < EVERY
    )
    if under_way and not lost:
        return
    back = AFTER_A_LOSS if lost else USUAL
    _move(connection, Listing(now.timestamp(), int((now - back).timestamp())))


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
            cursor = read_cursor(connection, CURSOR)
        listing = Listing(**json.loads(cursor.value)) if cursor else None
        if listing is None or listing.done or not budget.in_time:
            return found
        page = await _page(gateway, listing)
        for charge in _news(ledger, page["data"]):
            invoice_id = await invoice_of_charge(ledger, gateway, charge)
            found += invoice_id is not None and await read_again(ledger, gateway, invoice_id)
        after = page["data"][-1]["id"] if page["data"] else None
        with ledger.writing() as connection:
            _move(connection, replace(listing, after=after, done=not page["has_more"]))
    return found


def _news(ledger: Ledger, listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return charges of which more went back, or less, than is known."""
    back = [charge for charge in listed if charge.get("amount_refunded") or charge.get("disputed")]
    if not back:
        return []
    with ledger.reading() as connection:
        known = {
            each.charge_id: each for each in read_charges(connection, charge_ids=[c["id"] for c in back])
        }
    return [
        charge
        for charge in back
        if charge["id"] not in known
        or known[charge["id"]].refunded_cents != charge["amount_refunded"]
        or (charge.get("disputed") and known[charge["id"]].dispute is None)
    ]


async def _page(gateway: Gateway, listing: Listing) -> Any:
    parameters: dict[str, Any] = {"limit": _PAGE, "created": {"gte": listing.since}}
    if listing.after is not None:
        parameters["starting_after"] = listing.after
    try:
        return (await gateway.send(_ENDPOINT, "get", "/v1/charges", parameters)).object
    except StripeProblem as problem:
        if listing.after is None or problem.kind not in {Kind.PERMANENT, Kind.MISSING}:
            raise
        return {"data": [], "has_more": False}


def _move(connection: Connection, listing: Listing) -> None:
    move_cursor(connection, CURSOR, json.dumps(asdict(listing)))
