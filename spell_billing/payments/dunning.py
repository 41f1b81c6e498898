"""Our own dunning, off by default: asks Stripe to collect open invoices again, once per step.

A step is written down before Stripe is asked, and its key depends on nothing but invoice and step: when an
answer is lost, the same request goes out again and Stripe does it once.
"""

from datetime import UTC, datetime, timedelta

from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.lookups import retrieve
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.unpaid import begin_step, due_steps, end_step, unanswered_steps
from spell_billing.payments.places import Budget
from spell_billing.payments.reasons import keep_invoices
from spell_billing.stripe_api.client import Invoice
from spell_billing.stripe_api.problems import Kind, StripeProblem

PAY = "POST /v1/invoices/{invoice}/pay"
AT_MOST_LATE = timedelta(days=7)
"""A step that was due longer ago is left out: nobody expects a charge for an old invoice when dunning is
switched on, or comes back after long."""

_KEY_LIVES = timedelta(hours=23)
"""Stripe keeps an idempotency key for 24 hours; a request that is repeated later could charge again."""

_MOST_TROUBLES = 3
"""After this many steps without an answer, the rest waits for the next tick."""

_OTHERS = frozenset({"paid", "void", "uncollectible"})
"""Statuses of an invoice that is not to be collected."""


async def dun(
    ledger: Ledger, gateway: Gateway, days: tuple[int, ...], *, limit: int, budget: Budget
) -> tuple[int, int]:
    """Ask Stripe to collect what is due, and find out about steps whose answer was lost.

    `days` are the steps, in days since finalization; without any, only lost answers are found out. Return how
    many steps were taken, and how many of them Stripe collected.
    """
    asked, paid, now = 0, 0, datetime.now(UTC)
    with ledger.reading() as connection:
        unanswered = unanswered_steps(connection, limit)
        due = due_steps(connection, days, now=now, at_most_late=AT_MOST_LATE, limit=limit - len(unanswered))
    begun = {(step.stripe_invoice_id, step.step): step.asked_at for step in unanswered}
    troubles: list[StripeProblem] = []
    for invoice_id, step in [*begun, *due]:
        if not budget.in_time or len(troubles) >= _MOST_TROUBLES:
            break
        try:
            outcome = await _take(ledger, gateway, invoice_id, step, begun.get((invoice_id, step)))
        except StripeProblem as problem:
            # One invoice must not stop those behind it; Stripe being down shows in the next ones as well.
            troubles.append(problem)
        else:
            asked += outcome is not None
            paid += outcome == "paid"
    if troubles:
        raise troubles[0]
    return asked, paid


async def _take(
    ledger: Ledger, gateway: Gateway, invoice_id: str, step: int, asked_at: datetime | None
) -> str | None:
    """Take one step as far as it goes; return its outcome, None where there was nothing to ask.

    Stripe is asked how the invoice stands before it is asked to pay. `asked_at` is when the step was begun
    before: its answer was lost.
    """
    outcome = _outcome(ledger, await retrieve(gateway, invoice_id))
    if outcome in _OTHERS and asked_at is None:
        return None
    ledger.write(begin_step, invoice_id, step)
    if outcome is None:
        too_late = asked_at is not None and datetime.now(UTC) - asked_at > _KEY_LIVES
        outcome = "unknown" if too_late else await _ask(ledger, gateway, invoice_id, step)
    ledger.write(end_step, invoice_id, step, outcome)
    return outcome


def _outcome(ledger: Ledger, invoice: Invoice | None) -> str | None:
    """Write down how an invoice stands; return the outcome where there is nothing to be asked."""
    if invoice is None:
        return "missing"
    ledger.write(keep_invoices, [invoice], datetime.now(UTC))
    return invoice["status"] if invoice["status"] in _OTHERS else None


async def _ask(ledger: Ledger, gateway: Gateway, invoice_id: str, step: int) -> str:
    """Send the request; return its outcome, in a word or two."""
    try:
        answer = await gateway.send(PAY, key=f"spell:dunning:{invoice_id}:d{step}", invoice=invoice_id)
    except StripeProblem as problem:
        if problem.kind in {Kind.TRANSIENT, Kind.LIMITED}:
            raise
        settled = _outcome(ledger, await retrieve(gateway, invoice_id))
        if settled is not None:
            return settled
        if problem.decline_code:
            return f"declined: {problem.decline_code}"
        # A stored failure of Stripe's own: whether the card was charged is for its events to tell.
        return "unknown" if problem.kind in {Kind.STUCK, Kind.KEY_CONFLICT} else f"refused: {problem.message}"
    invoice = await retrieve(gateway, invoice_id) if answer.replayed else answer.object
    return _outcome(ledger, invoice) or "under way"
