"""Reconciles a month of the ledger with its frozen usage and Stripe, and writes the result down."""

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.errors import LedgerError, StripeAccountError
from spell_billing.core.money import format_amounts
from spell_billing.core.month import Month
from spell_billing.invoicing.came_back import came_back_findings
from spell_billing.invoicing.findings import Finding, Kind, Reconciliation
from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.item_findings import item_findings
from spell_billing.invoicing.reconcile import bills_by_user, reconcile
from spell_billing.invoicing.reconcile_money import by_currency, money_at_stripe, money_findings
from spell_billing.invoicing.rederive import rederive
from spell_billing.invoicing.reprice import late_price_findings
from spell_billing.invoicing.usage_versions import pinned_since
from spell_billing.ledger.erasing import require_no_unfinished_erasure
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.month_state import read_standing
from spell_billing.ledger.reviews import drafts_hash, read_review
from spell_billing.ledger.rows import Actor, MonthRecord
from spell_billing.ledger.schema import audit
from spell_billing.stripe_api.problems import StripeProblem
from spell_billing.usage.store import UsageStore

RECONCILED = "reconciled"
DIFFERENCES = "differences_found"
_CHANGED_SINCE = ("redrafted", "drafted_again", "adopted", "revised", "settled")
"""Actions after which bills are others than were reviewed."""


async def reconcile_month(
    ledger: Ledger, store: UsageStore, gateway: Gateway, month: Month, actor: Actor
) -> Reconciliation:
    """Compare the month's four sides; the outcome goes into the audit trail.

    Raises:
        LedgerError: when the month was never drafted, or the erasure of a user was not completed.
        UsageError: when its frozen usage is not in the store.
        IntegrityError: when a file of it is missing, or altered.
        StripeAccountError: when Stripe does not answer, or refuses the account.
    """
    ledger.read(require_no_unfinished_erasure)
    record = ledger.month(month)
    if record is None:
        raise LedgerError(
            f"{month} has no drafts: there is nothing to compare.",
            remedy=f"Bill it first: spell-billing bill --month {month}.",
        )
    frozen = store.version(month, record.usage_version)
    store.verify(frozen)
    try:
        bills = list(ledger.bills(month))
        result = await reconcile(month, frozen, bills, gateway)
        money = await money_at_stripe(gateway, month, result.standing)
    except StripeProblem as problem:
        raise StripeAccountError(
            f"Stripe cannot be asked what stands for {month}: {problem.message}.",
            remedy="Check the network, STRIPE_API_BASE and Stripe's status page, then try again.",
        ) from None
    with ledger.reading() as connection:
        result.findings.extend(rederive(connection, month, frozen, bills_by_user(bills)))
        result.findings.extend(_not_approved(connection, month, record))
        if read_standing(connection, month).in_review:
            # Nobody has an invoice yet, for one reason.
            result.findings = [each for each in result.findings if each.kind is not Kind.NOT_INVOICED]
            one = Finding(Kind.IN_REVIEW, "every user", None, "an approval of the drafts", "none yet")
            result.findings.append(one)
        latest = {user_id: each[-1] for user_id, each in bills_by_user(bills).items()}
        result.findings.extend(item_findings(frozen, latest))
        if frozen.manifest.rates is not None:
            result.findings.extend(late_price_findings(frozen, pinned_since(ledger, store, month)))
        result.money = by_currency(money.values())
        result.findings.extend(money_findings(connection, month, bills, money))
        result.findings.extend(came_back_findings(connection, latest.values()))
    result.drop_echoes()
    ledger.record_action(
        month,
        actor,
        DIFFERENCES if result.differences else RECONCILED,
        f"{len(result.differences)} differences; ledger {format_amounts(result.ledger_by_currency)}; "
        f"Stripe {format_amounts(result.stripe_by_currency)}",
    )
    return result


def _not_approved(connection: Connection, month: Month, record: MonthRecord) -> Iterator[Finding]:
    """Find a month that was sent without approval, or with other drafts than were reviewed."""
    review = read_review(connection, month)
    if record.billing_started_at is None or review is None:
        return
    reviewed = f"the drafts {review.drafts_hash[:12]}"
    if review.needs_approval:
        yield Finding(Kind.NOT_APPROVED, "every user", None, f"an approval of {reviewed}", "none")
        return
    # A bill that was rightly drafted, or taken from Stripe, after the review changes the hash.
    changed = sa.select(audit.c.id).where(audit.c.month == str(month), audit.c.action.in_(_CHANGED_SINCE))
    if connection.execute(changed.limit(1)).first() is None:
        now = drafts_hash(connection, month)
        if now != review.drafts_hash:
            yield Finding(Kind.NOT_APPROVED, "every user", None, f"{reviewed}, as reviewed", now[:12])
