"""Our own dunning, off by default: asks Stripe to collect open invoices again, once per step.

A step is written down before Stripe is asked, and its key depends on nothing but invoice and step: when an
answer is lost, the same request goes out again and Stripe does it once.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.lookups import retrieve
from spell_billing.invoicing.payment_facts import bill_named_by, payment_of
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.payments import keep_payments
from spell_billing.ledger.settling import settle
from spell_billing.ledger.unpaid import begin_step, bills_of_invoices, due_steps, end_step, unanswered_steps
from spell_billing.payments.reasons import WAY
from spell_billing.payments.tick_budget import Budget
from spell_billing.stripe_api.client import Invoice
from spell_billing.stripe_api.problems import Kind, StripeProblem

PAY = "POST /v1/invoices/{invoice}/pay"
AT_MOST_LATE = timedelta(days=7)
"""A step that was due longer ago is left out: nobody expects a charge for an old invoice when dunning is
switched on, or comes back after long."""

_KEY_LIVES = timedelta(hours=23)
"""Stripe keeps an idempotency key for 24 hours; a request that is repeated later could charge again."""

_MOST_TROUBLES = 3
"""After so many steps without an answer the rest waits for the next tick."""

_OTHERS = frozenset({"paid", "void", "uncollectible"})
"""Statuses of an invoice that is not to be collected."""


@dataclass(slots=True)
class Dunned:
    """What a tick asked: steps that were answered, and of them those that Stripe collected."""

    asked: int = 0
    paid: int = 0


async def dun(
    ledger: Ledger, gateway: Gateway, days: tuple[int, ...], *, limit: int, budget: Budget
) -> Dunned:
    """Ask Stripe to collect what is due, and find out about steps whose answer was lost.

    Args:
        ledger: The ledger.
        gateway: To Stripe.
        days: The steps, in days since finalization; none: only lost answers are found out.
        limit: So many invoices at most.
        budget: The tick's time.

    Raises:
        StripeProblem: when Stripe did not answer for a step; it is taken up again with the next tick.
        StripeAccountError: when the account refuses.
    """
    result, now = Dunned(), datetime.now(UTC)
    with ledger.reading() as connection:
        unanswered = unanswered_steps(connection, limit)
        due = due_steps(connection, days, now=now, at_most_late=AT_MOST_LATE, limit=limit - len(unanswered))
    begun = {(step.stripe_invoice_id, step.step): step for step in unanswered}
    troubles: list[StripeProblem] = []
    for invoice_id, number in [*begun, *due]:
        if not budget.in_time or len(troubles) >= _MOST_TROUBLES:
            break
        step = begun.get((invoice_id, number))
        too_late = step is not None and now - step.asked_at > _KEY_LIVES
        try:
            await _take(
                ledger, gateway, invoice_id, number, result, begun=step is not None, too_late=too_late
            )
        except StripeProblem as problem:
            # One invoice must not stop those behind it; Stripe being down shows in the next ones as well.
            troubles.append(problem)
    if troubles:
        raise troubles[0]
    return result


async def _take(
    ledger: Ledger,
    gateway: Gateway,
    invoice_id: str,
    step: int,
    result: Dunned,
    *,
    begun: bool = False,
    too_late: bool = False,
) -> None:
    """Take one step as far as it goes. Stripe is asked how the invoice stands before it is asked to pay."""
    outcome = _without_asking(await _look(ledger, gateway, invoice_id))
    if outcome in _OTHERS and not begun:
        # Settled meanwhile: there is nothing to ask.
        return
    with ledger.writing() as connection:
        begin_step(connection, invoice_id, step)
    if outcome is None:
        outcome = "unknown" if too_late else await _ask(ledger, gateway, invoice_id, step)
    with ledger.writing() as connection:
        end_step(connection, invoice_id, step, outcome)
    result.asked += 1
    result.paid += outcome == "paid"


def _without_asking(invoice: Invoice | None) -> str | None:
    """Return the outcome where there is nothing to be asked, else None."""
    if invoice is None:
        return "missing"
    return invoice["status"] if invoice["status"] in _OTHERS else None


async def _ask(ledger: Ledger, gateway: Gateway, invoice_id: str, step: int) -> str:
    """Send the request; give what came of it, in a word or two."""
    try:
        answer = await gateway.send(
            PAY, "post", f"/v1/invoices/{invoice_id}/pay", key=f"spell:dunning:{invoice_id}:d{step}"
        )
    except StripeProblem as problem:
        if problem.kind in {Kind.TRANSIENT, Kind.LIMITED}:
            raise
        settled = _without_asking(await _look(ledger, gateway, invoice_id))
        if settled is not None:
            return settled
        if problem.decline_code:
            return f"declined: {problem.decline_code}"
        # A stored failure of Stripe's own: whether the card was charged is for its events to tell.
        return "unknown" if problem.kind in {Kind.STUCK, Kind.KEY_CONFLICT} else f"refused: {problem.message}"
    invoice = await _look(ledger, gateway, invoice_id) if answer.replayed else answer.object
    if invoice is None:
        return "missing"
    _keep(ledger, invoice)
    return _without_asking(invoice) or "under way"


async def _look(ledger: Ledger, gateway: Gateway, invoice_id: str) -> Invoice | None:
    invoice = await retrieve(gateway, invoice_id)
    if invoice is not None:
        _keep(ledger, invoice)
    return invoice


def _keep(ledger: Ledger, invoice: Invoice) -> None:
    with ledger.writing() as connection:
        bill = bills_of_invoices(connection, [invoice["id"]]).get(invoice["id"]) or bill_named_by(invoice)
        if bill is not None:
            keep_payments(connection, [payment_of(invoice, bill, as_of=datetime.now(UTC), way=WAY)])
            settle(connection, invoice_ids=[invoice["id"]])
