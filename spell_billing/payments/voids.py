"""Bills whose invoice is void at Stripe, and not by us: followed to a revision of it, or parked."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter

from spell_billing.core.errors import MonthLockedError
from spell_billing.core.month import Month
from spell_billing.core.outcomes import INVOICED
from spell_billing.invoicing.adoption import as_it_stands, voided_by_a_person
from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.lookups import STATE_OF_STATUS, retrieve
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Actor, Bill, Change
from spell_billing.ledger.session import MonthSession
from spell_billing.ledger.settling import last_action, voided_bills
from spell_billing.stripe_api.client import Invoice

OWN_VOID = "void_requested"
"""What our own `void` writes down before it asks Stripe."""


@dataclass(slots=True)
class Voids:
    """What was found: bills parked, bills left for later, and bills that our own `void` left half done."""

    parked: int = 0
    deferred: int = 0
    unfinished: list[Bill] = field(default_factory=list)


async def follow_revisions(ledger: Ledger, gateway: Gateway, actor: Actor, limit: int) -> int:
    """Follow bills whose invoice is void because somebody edited it at Stripe, to its latest revision.

    Months that are held are left for the next tick; what is void for another reason is left to `park_voided`.
    Return how many bills were followed.
    """
    followed = 0
    for each in ledger.read(voided_bills, limit):
        original = await retrieve(gateway, str(each.stripe_invoice_id))
        latest = (original or {}).get("latest_revision")
        revision = await retrieve(gateway, str(latest)) if latest else None
        if revision is not None and revision["status"] in STATE_OF_STATUS:
            followed += await asyncio.to_thread(_follow, ledger, each, revision, actor)
    return followed


def _follow(ledger: Ledger, voided: Bill, revision: Invoice, actor: Actor) -> bool:
    try:
        with ledger.session(Month.parse(voided.month), actor, wait_seconds=0) as session:
            bill = _bill(session.bills_of_users([voided.user_id]), voided)
            if bill is not None:
                detail = f"{bill.stripe_invoice_id} was edited at Stripe"
                session.apply([Change(bill, as_it_stands(bill, revision), "revised", detail)])
            return bill is not None
    except MonthLockedError:
        return False


def park_voided(ledger: Ledger, actor: Actor, limit: int) -> Voids:
    """Park bills whose invoice is void at Stripe; months that are held are left for the next tick."""
    result = Voids()
    for month, found in groupby(ledger.read(voided_bills, limit), key=attrgetter("month")):
        voided = list(found)
        try:
            with ledger.session(Month.parse(month), actor, wait_seconds=0) as session:
                for each in voided:
                    _park(session, each, result)
        except MonthLockedError:
            result.deferred += len(voided)
    return result


def _park(session: MonthSession, voided: Bill, result: Voids) -> None:
    # The month is ours, so no `void` is under way: the one that asked for this was cut off.
    about = {"month": voided.month, "user_id": voided.user_id, "generation": voided.generation}
    unfinished = session.write(last_action, **about) == OWN_VOID
    bills = session.bills_of_users([voided.user_id])
    bill = _bill(bills, voided)
    if unfinished:
        result.unfinished.append(voided)
    elif bill is not None:
        session.apply([voided_by_a_person(bill, bills, str(voided.stripe_invoice_id))])
        result.parked += 1


def _bill(bills: Sequence[Bill], voided: Bill) -> Bill | None:
    """Return the bill that still has the void invoice."""
    of_invoice = (bill for bill in bills if bill.stripe_invoice_id == voided.stripe_invoice_id)
    return next((bill for bill in of_invoice if bill.state in INVOICED), None)
