"""Parks bills whose invoice a person voided at Stripe, when nobody holds their month."""

from collections import defaultdict
from dataclasses import dataclass, field

from spell_billing.core.errors import MonthLockedError
from spell_billing.core.month import Month
from spell_billing.core.outcomes import INVOICED
from spell_billing.invoicing.voided import voided_by_a_person
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Actor
from spell_billing.ledger.session import MonthSession
from spell_billing.ledger.settling import VoidedBill, voided_bills
from spell_billing.ledger.unpaid import last_act

OWN_VOID = "void_requested"
"""What our own `void` writes down before it asks Stripe."""


@dataclass(slots=True)
class Voids:
    """What was found: bills parked, bills left for later, and bills that our own `void` left half done."""

    parked: int = 0
    deferred: int = 0
    unfinished: list[VoidedBill] = field(default_factory=list)


def park_voided(ledger: Ledger, actor: Actor, limit: int) -> Voids:
    """Park bills whose invoice is void at Stripe; months that are held are left for the next tick.

    Args:
        ledger: The ledger.
        actor: For the audit trail.
        limit: So many bills at most.
    """
    result = Voids()
    with ledger.reading() as connection:
        found = voided_bills(connection, limit)
    by_month: defaultdict[str, list[VoidedBill]] = defaultdict(list)
    for each in found:
        by_month[each.month].append(each)
    for month, voided in by_month.items():
        try:
            with ledger.session(Month.parse(month), actor, wait_seconds=0) as session:
                for each in voided:
                    _park(ledger, session, each, result)
        except MonthLockedError:
            result.deferred += len(voided)
    return result


def _park(ledger: Ledger, session: MonthSession, voided: VoidedBill, result: Voids) -> None:
    with ledger.reading() as connection:
        # The month is ours, so no `void` is under way: the one that asked for this was cut off.
        unfinished = last_act(connection, voided) == OWN_VOID
    if unfinished:
        result.unfinished.append(voided)
        return
    bills = session.bills_of_users([voided.user_id])
    for bill in bills:
        if bill.stripe_invoice_id == voided.stripe_invoice_id and bill.state in INVOICED:
            session.apply([voided_by_a_person(bill, bills, voided.stripe_invoice_id)])
            result.parked += 1
