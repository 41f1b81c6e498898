"""Reads the invoices of all bills that Stripe may still collect, and what went back of the others.

For what events cannot tell: before the first event was read, after more than Stripe's 30 days of downtime,
and once a day for whatever slipped through. Where many of a month's invoices are unread they are listed, a
hundred a request; else each is retrieved. Charges show refunds and disputes, credit notes what was given
back in another way, unpaid invoices the bank debits that came back: those of the last 35 days are listed, as
events are kept for 30, and of the last 400 after events were lost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.engine import Connection

from spell_billing.core.month import Month
from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.lookups import created_since_close
from spell_billing.invoicing.payment_facts import is_unclear
from spell_billing.ledger.charges import read_charges
from spell_billing.ledger.credit_notes import notes_of_ours
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.payments import payments_of
from spell_billing.ledger.unpaid import bills_of_invoices, count_unread, unread_invoices, unsettled_months
from spell_billing.payments.money_back import invoice_of_charge, read_again
from spell_billing.payments.places import Budget, keep_place, list_page, read_place
from spell_billing.payments.reasons import keep_invoices, retrieve_all

_INVOICES = "stripe_invoices"
_LISTS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "stripe_charges": ("/v1/charges", {}),
    "stripe_credit_notes": ("/v1/credit_notes", {}),
    "stripe_open_invoices": ("/v1/invoices", {"status": "open"}),
    "stripe_given_up_invoices": ("/v1/invoices", {"status": "uncollectible"}),
}
"""What is listed, by the names under which the places in the lists are kept."""
_EVERY = timedelta(hours=24)
_LISTED_SINCE, _LISTED_SINCE_AFTER_A_LOSS = timedelta(days=35), timedelta(days=400)
_AT_ONCE = 8
_LISTING_PAYS = 50
"""List a month's invoices when more than one in this many is unread: a page has a hundred."""

_FINALIZED_MARGIN = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Reading:
    """A reading and how far it is.

    Attributes:
        started_at: Invoices read since then are done with. Unix seconds.
        months: Those that are left, the first of them under way.
        listed_until: List the month's invoices created up to then; None: retrieve each.
        after_invoice: The last one listed.
        after_bill: The id of the last bill whose invoice was retrieved.
    """

    started_at: float
    months: list[str] = field(default_factory=list)
    listed_until: int | None = None
    after_invoice: str | None = None
    after_bill: int = 0

    @property
    def since(self) -> datetime:
        """When the reading started."""
        return datetime.fromtimestamp(self.started_at, UTC)


@dataclass(frozen=True, slots=True)
class Listing:
    """A reading of a list: when it started, how far back it goes (Unix seconds), and how far it is.

    `after` is the last that was listed, None before the first page; `done` once the end was reached.
    """

    started_at: float
    since: int
    after: str | None = None
    done: bool = False


def read_reading(connection: Connection) -> Reading | None:
    """Return the latest reading, under way or ended; None where there was none."""
    return read_place(connection, _INVOICES, Reading)


def lists_more(connection: Connection) -> bool:
    """Return whether a reading of a list is under way."""
    places = (read_place(connection, name, Listing) for name in _LISTS)
    return any(place is not None and not place.done for place in places)


def begin_if_due(connection: Connection, now: datetime, *, lost: bool) -> None:
    """Begin each reading once a day, and at once where events were lost."""
    last, yesterday = read_reading(connection), (now - _EVERY).timestamp()
    if lost or last is None or (not last.months and last.started_at <= yesterday):
        reading = _begun(connection, now.timestamp(), unsettled_months(connection))
        keep_place(connection, _INVOICES, reading)
    since = now - (_LISTED_SINCE_AFTER_A_LOSS if lost else _LISTED_SINCE)
    for name in _LISTS:
        listing = read_place(connection, name, Listing)
        if lost or listing is None or (listing.done and listing.started_at <= yesterday):
            keep_place(connection, name, Listing(now.timestamp(), int(since.timestamp())))


async def read_invoices(ledger: Ledger, gateway: Gateway, *, requests: int, budget: Budget) -> int:
    """Go on with the reading of invoices under way, if any; return how many were read."""
    read = 0
    while requests > 0 and budget.in_time:
        reading = ledger.read(read_reading)
        if reading is None or not reading.months:
            return read
        if reading.listed_until is not None:
            read += await _list_some(ledger, gateway, reading)
            requests -= 1
        else:
            count = await _retrieve_some(ledger, gateway, reading)
            read += count
            requests -= max(count, 1)
    return read


def _begun(connection: Connection, started_at: float, months: list[str]) -> Reading:
    """Begin with the first of the months, and choose whether to list its invoices."""
    reading = Reading(started_at, months)
    if months:
        unread, last, invoices = count_unread(connection, months[0], reading.since)
        # A handful is retrieved as quickly, and more is learned of each.
        if last is not None and unread > _AT_ONCE and unread * _LISTING_PAYS > invoices:
            return replace(reading, listed_until=int((last + _FINALIZED_MARGIN).timestamp()))
    return reading


async def _list_some(ledger: Ledger, gateway: Gateway, reading: Reading) -> int:
    created = created_since_close(Month.parse(reading.months[0])) | {"lte": reading.listed_until}
    as_of = datetime.now(UTC)
    page = await list_page(gateway, "/v1/invoices", {"created": created}, reading.after_invoice)
    more = page is not None and page["has_more"]
    found = page["data"] if page else []
    with ledger.writing() as connection:
        # Of the unclear ones more must be known; they stay unread, and are retrieved.
        count = keep_invoices(connection, [each for each in found if not is_unclear(each)], as_of)
        after, until = (found[-1]["id"], reading.listed_until) if more else (None, None)
        keep_place(connection, _INVOICES, replace(reading, after_invoice=after, listed_until=until))
    return count


async def _retrieve_some(ledger: Ledger, gateway: Gateway, reading: Reading) -> int:
    bills = ledger.read(
        unread_invoices, reading.months[0], reading.since, after_id=reading.after_bill, limit=_AT_ONCE
    )
    as_of = datetime.now(UTC)
    found = await retrieve_all(gateway, [invoice_id for _, invoice_id in bills])
    with ledger.writing() as connection:
        keep_invoices(connection, [invoice for invoice in found if invoice is not None], as_of)
        if bills:
            following = replace(reading, after_bill=bills[-1][0])
        else:
            following = _begun(connection, reading.started_at, reading.months[1:])
        keep_place(connection, _INVOICES, following)
    return len(bills)


async def read_lists(ledger: Ledger, gateway: Gateway, *, pages: int, budget: Budget) -> int:
    """Go on with the readings of lists under way; return how many invoices were read."""
    found = 0
    for name, (path, filters) in _LISTS.items():
        while (listing := ledger.read(read_place, name, Listing)) is not None and not listing.done:
            if not pages or not budget.in_time:
                return found
            pages -= 1
            since = {"created": {"gte": listing.since}}
            page = await list_page(gateway, path, {**since, **filters}, listing.after)
            listed = page["data"] if page else []
            for invoice_id in await _invoices_to_read(ledger, gateway, listed):
                found += await read_again(ledger, gateway, invoice_id) is not None
            after = listed[-1]["id"] if listed else None
            with ledger.writing() as connection:
                done = page is None or not page["has_more"]
                keep_place(connection, name, replace(listing, after=after, done=done))
    return found


async def _invoices_to_read(
    ledger: Ledger, gateway: Gateway, listed: Sequence[Mapping[str, Any]]
) -> set[str]:
    """Return the invoices of which charges, credit notes or their own status say something new."""
    with ledger.reading() as connection:
        unpaid = payments_of(connection, [each["id"] for each in listed if each["object"] == "invoice"])
        notes = {str(each["id"]): str(each["invoice"]) for each in listed if each["object"] == "credit_note"}
        ours = notes_of_ours(connection, notes)
        beside = {invoice_id for note_id, invoice_id in notes.items() if note_id not in ours}
        invoice_ids = set(bills_of_invoices(connection, beside))
        invoice_ids |= {invoice_id for invoice_id, known in unpaid.items() if known.status == "paid"}
        charges = _news(connection, [each for each in listed if each["object"] == "charge"])
    found = [await invoice_of_charge(ledger, gateway, charge) for charge in charges]
    return invoice_ids | {each for each in found if each is not None}


def _news(connection: Connection, listed: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return charges of which more went back, or less, than is known, and whose dispute may have ended."""
    read = read_charges(connection, charge_ids=[charge["id"] for charge in listed])
    refunded = {each.charge_id: each.refunded_cents for each in read}
    settled = {each.charge_id for each in read if each.is_settled}
    return [
        charge
        for charge in listed
        if refunded.get(charge["id"], 0) != (charge.get("amount_refunded") or 0)
        or (charge.get("disputed") and charge["id"] not in settled)
    ]
