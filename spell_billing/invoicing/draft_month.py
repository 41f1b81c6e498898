"""Drafts a whole month: frozen usage, accounts and history in, one draft per user out, a batch at a time."""

import gc
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
from msgspec.structs import asdict

from spell_billing.core.drafting import Account, Credit, Draft, LateUsage, draft_invoice
from spell_billing.core.late import BillOf, Usage, late_usage
from spell_billing.core.month import Month
from spell_billing.core.outcomes import State
from spell_billing.core.plausible import USUAL_RULES, HoldRules
from spell_billing.core.terms import USUAL_POLICY, Policy
from spell_billing.invoicing.holds import hold_drafts, holding_of_redrafts
from spell_billing.ledger.history import History
from spell_billing.ledger.redrafting import end_redrafting
from spell_billing.ledger.rows import Bill, Change, content_of
from spell_billing.ledger.session import MonthSession
from spell_billing.usage.contract import FrozenUsage, UsageSource
from spell_billing.usage.user_usage import iter_user_drafting_input

LATE_USAGE_MONTHS = 12
"""How far back late usage is looked for."""

_CHANGES_AT_ONCE = 1_000
_COLUMNS = (
    *("user_id", "calls", "cost_cents", "account_known"),
    *("stripe_customer_id", "currency", "plan_id", "plan_name", "included_cents"),
    *("collection", "net_days", "po_number", "footer"),
)


def draft_month(
    session: MonthSession,
    source: UsageSource,
    frozen: FrozenUsage,
    rules: HoldRules = USUAL_RULES,
    policy: Policy = USUAL_POLICY,
) -> bool:
    """Bring the month's drafts up to date in the ledger. Nothing goes to Stripe.

    Before billing has started, all drafts are written anew. Afterwards usage is frozen, and only bills
    without an invoice (failed, held, skipped, voided for billing again) are drafted again, with the accounts
    as they are now.

    Args:
        session: Holds the month's lock.
        source: For the accounts.
        frozen: The version to draft from; after the start of billing, the pinned one.
        rules: From where on a user's bill is held.
        policy: What the settings say of all bills; frozen with each that is drafted now.

    Returns:
        True when drafts were written or changed.
    """
    record = session.record()
    if record is not None and record.billing_started_at is not None:
        changed = _redraft(session, source, frozen, rules, policy)
        with session.writing() as connection:
            end_redrafting(connection, session.month)
        return changed
    totals = frozen.manifest.frozen
    with _without_collection():
        session.replace_drafts(
            drafts_of(session.month, source, frozen, session.history, policy=policy),
            usage_version=frozen.version,
            calls=totals.calls,
            usage_cents=totals.cost_cents,
        )
        hold_drafts(session, rules)
    return True


@contextmanager
def _without_collection() -> Iterator[None]:
    # Drafts make no cycles; to look for some after every 700 objects takes a fifth of the time.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def drafts_of(
    month: Month,
    source: UsageSource,
    frozen: FrozenUsage,
    history_of: Callable[[Collection[BillOf]], History],
    *,
    only: Collection[str] | None = None,
    policy: Policy = USUAL_POLICY,
) -> Iterator[Draft]:
    """Draft every user's invoice of the month, ordered by user id.

    Args:
        month: The month to draft.
        source: For the accounts.
        frozen: The month's frozen and aggregated usage.
        history_of: Reads what the ledger has of all bills but those that are drafted.
        only: Draft these users alone, and each of them; None for all that have something on their draft.
        policy: What the settings say of all bills. It changes no total.
    """
    new = _late_rows(frozen)
    if only is not None:
        new = {bill: usage for bill, usage in new.items() if bill[0] in only}
    history = history_of(new.keys())
    late = late_usage(new, history.billed, heir_of=history.heirs.heir_of, only=only)
    # A remainder that was left waits for a month in which something else is charged.
    credits_of = history.credits.items()
    credited = {user for user, found in credits_of if any(each.amount_cents > 0 for each in found)}
    others = late.keys() | credited if only is None else only
    batches = iter_user_drafting_input(frozen, source.accounts(), extra_users=others)
    return _drafts(month, batches, late, history, only, policy=policy)


def _drafts(
    month: Month,
    batches: Iterable[pa.RecordBatch],
    late: Mapping[str, Sequence[LateUsage]],
    history: History,
    only: Collection[str] | None,
    *,
    policy: Policy,
) -> Iterator[Draft]:
    for batch in batches:
        # Column by column: a dictionary per row would cost more than the drafting itself.
        columns = (batch.column(name).to_pylist() for name in _COLUMNS)
        for user_id, calls, cost_cents, known, *columns_of_account in zip(*columns, strict=True):
            if only is not None and user_id not in only:
                continue
            account = _account(*columns_of_account) if known else None
            credit, others = _credit(history.credits.get(user_id, ()), account)
            draft = draft_invoice(
                month,
                user_id,
                calls=calls,
                usage_cents=Decimal(cost_cents),
                account=account,
                late=late.get(user_id, ()),
                credit=credit,
                other_credits=others,
                policy=policy,
            )
            if draft.calls or draft.usage_cents or draft.lines or only is not None:
                yield draft


def _credit(found: Sequence[Credit], account: Account | None) -> tuple[Credit | None, Sequence[Credit]]:
    """Return the credit that the user's next bill may use, and those in other currencies."""
    if not found:
        return None, ()
    usable = next((each for each in found if account and each.currency == account.currency), found[0])
    return usable, [each for each in found if each is not usable]


def _redraft(
    session: MonthSession, source: UsageSource, frozen: FrozenUsage, rules: HoldRules, policy: Policy
) -> bool:
    waiting = {bill.user_id: bill for bill in session.bills_to_redraft()}
    if not waiting:
        return False
    changes: list[Change] = []
    changed = False
    holding = holding_of_redrafts(session, rules)
    history_of = partial(session.history, only=waiting.keys())
    drafts = drafts_of(session.month, source, frozen, history_of, only=waiting.keys(), policy=policy)
    for drafted in drafts:
        bill = waiting[drafted.user_id]
        draft, message = holding.applied(drafted)
        if bill.state is State.VOID:
            session.add_generation(bill, draft)
            changed = True
            continue
        change = _change(bill, draft, message)
        if change is not None:
            changes.append(change)
        if len(changes) >= _CHANGES_AT_ONCE:
            session.apply(changes)
            changed, changes = True, []
    session.apply(changes)
    return changed or bool(changes)


def _change(bill: Bill, draft: Draft, message: str | None) -> Change | None:
    """Return the change from a bill to its new draft; None where nothing is new."""
    after = replace(bill, message=message, **asdict(content_of(draft)))
    if after.state is bill.state and after.reason is bill.reason and after.lines_hash == bill.lines_hash:
        return None
    return Change(bill, after, "redrafted")


def _late_rows(frozen: FrozenUsage) -> dict[BillOf, Usage]:
    """Return differences that were recorded with the month, or since for users who wait for their bill."""
    found: dict[BillOf, Usage] = {}
    for each in (frozen, *frozen.supplements):
        if each.manifest.late is None:
            continue
        with pq.ParquetFile(each.directory / each.manifest.late.file.name) as file:
            rows = file.read().to_pylist()
        for row in rows:
            bill = row["user_id"], row["usage_month"]
            usage = Usage(row["calls"], Decimal(row["cost_cents"]))
            found[bill] = found[bill] + usage if bill in found else usage
    return found


def _account(
    customer_id: str | None,
    currency: str,
    plan_id: str | None,
    plan_name: str | None,
    included_cents: int | None,
    *terms: str | None,
) -> Account:
    return Account(customer_id, currency, plan_id, plan_name, included_cents or 0, *terms)
