"""Reads the invoices themselves, of all bills that Stripe may still collect.

For what events cannot tell: before the first event was read, after more than Stripe's 30 days of downtime,
and once a day for whatever slipped through. Where many of a month's invoices are unread they are listed, a
hundred a request; else each is retrieved. The place is kept, so a reading may take many ticks.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.engine import Connection

from spell_billing.core.month import Month
from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.lookups import created_since_close
from spell_billing.invoicing.payment_facts import bill_named_by, is_unclear, payment_of
from spell_billing.ledger.cursors import move_cursor, read_cursor
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.payments import Payment, keep_payments
from spell_billing.ledger.settling import settle
from spell_billing.ledger.unpaid import (
    bills_of_invoices,
    count_unread,
    unread_invoices,
    unsettled_months,
)
from spell_billing.payments.reasons import WAY, payment_read, retrieve_all
from spell_billing.payments.tick_budget import Budget
from spell_billing.stripe_api.client import Invoice
from spell_billing.stripe_api.problems import Kind, StripeProblem

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
    cursor = read_cursor(connection, CURSOR)
    return Reading(**json.loads(cursor.value)) if cursor else None


def is_due(reading: Reading | None, now: datetime) -> bool:
    """Return whether a reading is to begin."""
    return reading is None or (not reading.months and now - reading.since >= EVERY)


def begin(connection: Connection, now: datetime) -> None:
    """Begin a reading of all invoices that Stripe may still collect."""
    _move(connection, Reading(now.timestamp(), unsettled_months(connection)))


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
            reading = _decide(ledger, reading)
        if reading.listed_until is not None:
            read += await _list_page(ledger, gateway, reading)
            requests -= 1
        else:
            count = await _retrieve_some(ledger, gateway, reading)
            read += count
            requests -= max(count, 1)
    return read


def _decide(ledger: Ledger, reading: Reading) -> Reading:
    """Choose for the month under way whether to list its invoices."""
    with ledger.reading() as connection:
        unread, last, invoices = count_unread(connection, reading.months[0], reading.since)
    until = None
    # A handful is retrieved as quickly, and more is learned of each.
    if last is not None and unread > _AT_ONCE and unread * _LISTING_PAYS > invoices:
        until = int((last + _FINALIZED_MARGIN).timestamp())
    return replace(reading, decided=True, listed_until=until)


async def _list_page(ledger: Ledger, gateway: Gateway, reading: Reading) -> int:
    created = created_since_close(Month.parse(reading.months[0])) | {"lte": reading.listed_until}
    parameters: dict[str, Any] = {"limit": _PAGE, "created": created}
    if reading.after_invoice is not None:
        parameters["starting_after"] = reading.after_invoice
    as_of = datetime.now(UTC)
    try:
        page = (await gateway.send("GET /v1/invoices", "get", "/v1/invoices", parameters)).object
    except StripeProblem as problem:
        if reading.after_invoice is None or problem.kind not in {Kind.PERMANENT, Kind.MISSING}:
            raise
        page = {"data": [], "has_more": False}
    found = [invoice for invoice in page["data"] if invoice["status"] != "draft"]
    with ledger.writing() as connection:
        # Of the unclear ones more must be known; they stay unread, and are retrieved.
        said = _said(connection, [invoice for invoice in found if not is_unclear(invoice)], as_of)
        _keep(connection, said)
        after = page["data"][-1]["id"] if page["has_more"] else None
        listed_until = reading.listed_until if page["has_more"] else None
        _move(connection, replace(reading, after_invoice=after, listed_until=listed_until))
    return len(said)


async def _retrieve_some(ledger: Ledger, gateway: Gateway, reading: Reading) -> int:
    with ledger.reading() as connection:
        bills = unread_invoices(
            connection, reading.months[0], reading.since, after_id=reading.after_bill, limit=_AT_ONCE
        )
    as_of = datetime.now(UTC)
    found = await retrieve_all(gateway, [invoice_id for _, invoice_id in bills])
    with ledger.writing() as connection:
        names = bills_of_invoices(connection, [invoice_id for _, invoice_id in bills])
        said = [
            payment_read(invoice, names[invoice["id"]], as_of)
            for invoice in found
            if invoice is not None and invoice["status"] != "draft"
        ]
        _keep(connection, said)
        if bills:
            _move(connection, replace(reading, after_bill=bills[-1][0]))
        else:
            _move(connection, Reading(reading.started_at, reading.months[1:]))
    return len(bills)


def _said(connection: Connection, found: list[Invoice], as_of: datetime) -> list[Payment]:
    bills = bills_of_invoices(connection, [invoice["id"] for invoice in found])
    named = ((invoice, bills.get(invoice["id"]) or bill_named_by(invoice)) for invoice in found)
    return [payment_of(invoice, bill, as_of=as_of, way=WAY) for invoice, bill in named if bill is not None]


def _keep(connection: Connection, said: list[Payment]) -> None:
    if said:
        keep_payments(connection, said)
        settle(connection, invoice_ids=[payment.stripe_invoice_id for payment in said])


def _move(connection: Connection, reading: Reading) -> None:
    move_cursor(connection, CURSOR, json.dumps(asdict(reading)))
