"""Reconciles a month of the ledger with its frozen usage and Stripe, and writes the result down."""

from spell_billing.core.errors import LedgerError, StripeAccountError
from spell_billing.core.month import Month
from spell_billing.invoicing.findings import Reconciliation
from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.reconcile import reconcile
from spell_billing.ledger.erasing import require_no_unfinished_erasure
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Actor
from spell_billing.stripe_api.problems import StripeProblem
from spell_billing.usage.store import UsageStore

RECONCILED = "reconciled"
DIFFERENCES = "differences_found"


async def reconcile_month(
    ledger: Ledger, store: UsageStore, gateway: Gateway, month: Month, actor: Actor
) -> Reconciliation:
    """Compare the month's three sides; the outcome goes into the audit trail.

    Raises:
        LedgerError: when the month was never drafted, or the erasure of a user was not completed.
        UsageError: when its frozen usage is not in the store.
        StripeAccountError: when Stripe does not answer, or refuses the account.
    """
    with ledger.reading() as connection:
        require_no_unfinished_erasure(connection)
    record = ledger.month(month)
    if record is None:
        raise LedgerError(
            f"{month} has no drafts: there is nothing to compare.",
            remedy=f"Bill it first: spell-billing bill --month {month}.",
        )
    frozen = store.version(month, record.usage_version)
    try:
        result = await reconcile(month, frozen, ledger.bills(month), gateway)
    except StripeProblem as problem:
        raise StripeAccountError(
            f"Stripe cannot be asked what stands for {month}: {problem.message}.",
            remedy="Check the network, STRIPE_API_BASE and Stripe's status page, then try again.",
        ) from None
    ledger.record_action(
        month,
        actor,
        DIFFERENCES if result.differences else RECONCILED,
        f"{len(result.differences)} differences; ledger {result.ledger_cents} cents, "
        f"Stripe {result.stripe_cents} cents",
    )
    return result
