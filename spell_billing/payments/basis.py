"""Asks Stripe, before anything is sent, what became of invoices on which a month's drafts give money back.

Where the daemon follows events, the ledger knows. Where it does not run, or is behind, money would be given
back of an invoice that a person voided, marked uncollectible or refunded at Stripe.
"""

import asyncio
from collections.abc import Sequence

from sqlalchemy.engine import Connection

from spell_billing.core.errors import DraftsOutdatedError
from spell_billing.core.lines import FEE_IN_ADVANCE, LATE_KINDS
from spell_billing.core.month import Month
from spell_billing.core.outcomes import INVOICED
from spell_billing.core.review import some
from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.lookups import asking
from spell_billing.ledger.charges import read_charges
from spell_billing.ledger.credit_notes import known_back_cents
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.payments import payments_of
from spell_billing.ledger.queries import latest_bills, latest_generation, lines_told
from spell_billing.ledger.rows import Actor
from spell_billing.ledger.schema import invoices
from spell_billing.payments.money_back import read_again
from spell_billing.payments.voids import park_voided

_AT_ONCE = 8
_NOBODY_PAYS = frozenset({"void", "uncollectible"})


async def require_basis(ledger: Ledger, gateway: Gateway, month: Month, actor: Actor) -> None:
    """Read the invoices on which the drafts give money back, and refuse drafts made before they changed.

    What was learned is in the ledger then: the month is drafted again from it.

    Raises:
        DraftsOutdatedError: an invoice was voided, marked uncollectible or refunded at Stripe.
        StripeAccountError: Stripe cannot be asked.
    """
    users = await asyncio.to_thread(ledger.read, _given_back, month)
    names = sorted(users)
    before = await asyncio.to_thread(ledger.read, _known, names)
    with asking(
        f"Stripe cannot be asked about invoices on which {month} gives money back",
        remedy="Nothing was sent. Check the network, STRIPE_API_KEY and Stripe's status page, then bill "
        "the month again.",
    ):
        for first in range(0, len(names), _AT_ONCE):
            group = names[first : first + _AT_ONCE]
            await asyncio.gather(*(read_again(ledger, gateway, each) for each in group))
    after = await asyncio.to_thread(ledger.read, _known, names)
    if changed := [name for name in names if before[name] != after[name]]:
        await asyncio.to_thread(park_voided, ledger, actor, len(names))
        raise DraftsOutdatedError(
            f"{month} would give money back on invoices that were voided, marked uncollectible or refunded "
            f"at Stripe meanwhile: {some([f'{name} of user {users[name]}' for name in changed])}.",
            remedy="Nothing was sent. Bill the month again: it is drafted anew.",
        )


def _given_back(connection: Connection, month: Month) -> dict[str, str]:
    """Return the invoices on which the month's drafts give money back, with their users."""
    told = lines_told(
        connection, LATE_KINDS | {FEE_IN_ADVANCE}, [invoices.c.user_id], latest_generation(month)
    )
    given_back = {
        (row.user_id, line.usage_month)
        for row, line in told
        if line.amount_cents < 0 and line.usage_month != str(month)
    }
    return {
        bill.stripe_invoice_id: bill.user_id
        for bill in latest_bills(connection, {user_id for user_id, _ in given_back})
        if (bill.user_id, bill.month) in given_back and bill.state in INVOICED and bill.stripe_invoice_id
    }


def _known(connection: Connection, names: Sequence[str]) -> dict[str, tuple[bool, int, int]]:
    """Return of invoices whether nobody pays them, and what went back by notes and by charges, in cents."""
    payments = payments_of(connection, names)
    charges = read_charges(connection, invoice_ids=names)
    known = {}
    for name in names:
        payment = payments.get(name)
        went_cents = sum(
            each.refunded_cents + each.disputed_cents for each in charges if each.stripe_invoice_id == name
        )
        noted_cents = known_back_cents(connection, payment) if payment else 0
        known[name] = (payment is not None and payment.status in _NOBODY_PAYS, noted_cents, went_cents)
    return known
