"""Drafts a whole month: frozen usage, accounts and history in, one draft per user out, a batch at a time."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa

from spell_billing.core.drafting import Account, Credit, Draft, draft_invoice
from spell_billing.core.fees import NOTHING_CHARGED
from spell_billing.core.late import BillOf, LateUsage, Usage, late_usage
from spell_billing.core.month import Month
from spell_billing.core.outcomes import SAID_BY_STRIPE, State
from spell_billing.core.plausible import USUAL_RULES, HoldRules
from spell_billing.core.terms import USUAL_POLICY, Policy
from spell_billing.core.usual_drafts import usual_draft
from spell_billing.invoicing.given_back import hold_what_may_go_back_twice
from spell_billing.invoicing.holding import holding_of
from spell_billing.ledger.cursors import end_redrafting
from spell_billing.ledger.history import History
from spell_billing.ledger.reviews import Hold, read_waiting, write_holds
from spell_billing.ledger.rows import Bill, Change, content_of
from spell_billing.ledger.schema import invoices
from spell_billing.ledger.session import MonthSession
from spell_billing.usage.contract import UsageSource
from spell_billing.usage.frozen import FrozenUsage
from spell_billing.usage.plan_book import PlanBook, book_of, read_book
from spell_billing.usage.user_usage import (
    ItemsOf,
    charged_totals,
    items_in_step,
    iter_user_drafting_input,
)

LATE_USAGE_MONTHS = 12
"""How far back late usage is looked for."""

Accounts = Callable[[], pa.Table]
"""Reads the billing accounts."""

_CHANGES_AT_ONCE = 1_000
_REDRAFTED = [state.value for state in (State.FAILED, State.HELD, State.VOID)]
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
    *,
    accounts: Accounts | None = None,
) -> bool:
    """Bring the month's drafts up to date in the ledger. Nothing goes to Stripe.

    Before billing has started, all drafts are written anew. Afterwards usage is frozen, and only bills
    without an invoice (failed, held, skipped, voided for billing again) are drafted again, with the accounts
    as they are now.

    `frozen` is the version to draft from, after the start of billing the pinned one; the policy is frozen
    with each bill that is drafted now. `accounts` reads the accounts, if not the source.

    Returns whether drafts were written or changed.
    """
    record = session.record()
    if record is not None and record.billing_started_at is not None:
        changed = _redraft(session, source, frozen, rules, policy, accounts=accounts)
        changed = hold_what_may_go_back_twice(session) or changed
        with session.writing() as connection:
            end_redrafting(connection, session.month)
        return changed
    totals = frozen.manifest.frozen if frozen.manifest.rates is None else charged_totals(frozen)
    drafts = drafts_of(session.month, source, frozen, session.history, policy=policy, accounts=accounts)
    gives_back = False

    def watched() -> Iterator[Draft]:
        nonlocal gives_back
        for draft in drafts:
            # A line below zero stands beside others, or is all that the bill has.
            gives_back = gives_back or draft.total_cents <= 0 or len(draft.lines) > 1
            yield draft

    session.replace_drafts(
        watched(),
        usage_version=frozen.version,
        calls=totals.calls,
        usage_cents=totals.cost_cents,
    )
    _hold_drafts(session, rules)
    if gives_back:
        hold_what_may_go_back_twice(session)
    return True


def drafts_of(
    month: Month,
    source: UsageSource,
    frozen: FrozenUsage,
    history_of: Callable[[Collection[BillOf]], History],
    *,
    only: Collection[str] | None = None,
    policy: Policy = USUAL_POLICY,
    accounts: Accounts | None = None,
) -> Iterator[Draft]:
    """Draft every user's invoice of the month, ordered by user id, from its aggregated usage.

    `history_of` reads what the ledger has of all bills but those that are drafted. With `only`, these users
    are drafted, and each of them; else all that have something on their draft. `accounts` reads the accounts,
    if not the source: who reads them several times has them as they were the first time.
    """
    new: Mapping[BillOf, Usage] = recorded_late_usage(frozen)
    if only is not None:
        new = {bill: usage for bill, usage in new.items() if bill[0] in only}
    history = history_of(new.keys())
    late = late_usage(new, history.billed, heir_of=history.heirs.heir_of, only=only)
    # A remainder that was left waits for a month in which something else is charged.
    credits_of = history.credits.items()
    credited = {user for user, found in credits_of if any(each.amount_cents > 0 for each in found)}
    book = read_book(frozen)
    # A plan that did not exist when the month was frozen counts as it is now: its users wait for it.
    late_plans = bool(book and only and not book.unknown.isdisjoint(only))
    now = book_of(month, source.plans(month)) if late_plans else None
    charged = (book.users_charged_alone() if book else set()) | history.fees.keys()
    others = late.keys() | credited | charged if only is None else only
    known = (accounts or source.accounts)()
    batches = iter_user_drafting_input(frozen, known, extra_users=others)
    items_of = items_in_step(frozen, only)
    return _drafts(
        month, batches, late, history, only=only, books=(book, now), policy=policy, items_of=items_of
    )


def _drafts(
    month: Month,
    batches: Iterable[pa.RecordBatch],
    late: Mapping[str, Sequence[LateUsage]],
    history: History,
    *,
    only: Collection[str] | None,
    books: tuple[PlanBook | None, PlanBook | None],
    policy: Policy,
    items_of: ItemsOf,
) -> Iterator[Draft]:
    frozen_book, now = books
    has_usual_policy = policy == USUAL_POLICY
    beside_usage = late.keys() | history.credits.keys() | history.fees.keys() | history.grants.keys()
    for batch in batches:
        # Column by column: a dictionary per row would cost more than the drafting itself.
        columns = (batch.column(name).to_pylist() for name in _COLUMNS)
        for user_id, calls, cost_cents, known, customer_id, currency, plan_id, name, included, *terms in zip(
            *columns, strict=True
        ):
            if only is not None and user_id not in only:
                continue
            account = Account(customer_id, currency, plan_id, name, included or 0, *terms) if known else None
            is_unknown = frozen_book is not None and user_id in frozen_book.unknown
            book = now if is_unknown and now else frozen_book
            plan = book.plan_of(user_id) if book else None
            # A discount of one's own is no plan: where the account's plan is unknown, it stays so.
            if book and plan is not None and account is not None and book.has_plan(user_id):
                account = msgspec.structs.replace(
                    account,
                    plan_id=plan.plan_id,
                    plan_name=plan.name,
                    included_cents=plan.rating.included_cents,
                )
            usage_cents, items = Decimal(cost_cents), items_of(user_id)
            if plan is None and not items and has_usual_policy and user_id not in beside_usage:
                usual = usual_draft(month, user_id, calls=calls, usage_cents=usage_cents, account=account)
                if usual is not None:
                    yield usual
                    continue
            credit, others = _credit(history.credits.get(user_id, ()), account)
            draft = draft_invoice(
                month,
                user_id,
                calls=calls,
                usage_cents=usage_cents,
                account=account,
                late=late.get(user_id, ()),
                credit=credit,
                other_credits=others,
                plan=plan,
                fees_charged=history.fees.get(user_id, NOTHING_CHARGED),
                grants=history.grants.get(user_id, ()),
                policy=policy,
                items=items,
                may_owe_fee=is_unknown and account is not None and account.plan_name == "",
            )
            if (
                draft.calls
                or draft.usage_cents
                or draft.lines
                or draft.state is State.FAILED
                or only is not None
            ):
                yield draft


def _credit(found: Sequence[Credit], account: Account | None) -> tuple[Credit | None, Sequence[Credit]]:
    """Return the credit that the user's next bill may use, and those in other currencies."""
    if not found:
        return None, ()
    usable = next((each for each in found if account and each.currency == account.currency), found[0])
    return usable, [each for each in found if each is not usable]


def _redraft(
    session: MonthSession,
    source: UsageSource,
    frozen: FrozenUsage,
    rules: HoldRules,
    policy: Policy,
    *,
    accounts: Accounts | None,
) -> bool:
    waiting = {bill.user_id: bill for bill in session.bills_to_redraft()}
    if not waiting:
        return False
    with session.writing() as connection:
        holding = holding_of(connection, session.month, invoices.c.state.in_(_REDRAFTED), rules)
    history_of = partial(session.history, only=waiting.keys())
    changes: list[Change] = []
    changed = False
    drafts = drafts_of(
        session.month, source, frozen, history_of, only=waiting.keys(), policy=policy, accounts=accounts
    )
    for drafted in drafts:
        bill = waiting[drafted.user_id]
        draft, message = holding.applied(drafted)
        if bill.state is State.VOID:
            session.add_generation(bill, draft)
            changed = True
            continue
        after = replace(bill, message=message, **content_of(draft))
        if after.state is State.PLANNED and bill.reason in SAID_BY_STRIPE and _is_same(bill, after):
            after = replace(after, reason=bill.reason, message=bill.message)
        if (after.state, after.reason) == (bill.state, bill.reason) and _is_same(bill, after):
            continue
        changes.append(Change(bill, after, "redrafted"))
        changed = True
        if len(changes) >= _CHANGES_AT_ONCE:
            session.apply(changes)
            changes = []
    session.apply(changes)
    return changed


def _is_same(bill: Bill, other: Bill) -> bool:
    return bill.lines_hash == other.lines_hash


def late_rows(version: FrozenUsage) -> Iterator[dict[str, Any]]:
    """Return the differences to earlier bills that were recorded with a version, by user and month."""
    if version.manifest.late is not None:
        with pq.ParquetFile(version.path(version.manifest.late.file)) as file:
            yield from file.read().to_pylist()


def recorded_late_usage(frozen: FrozenUsage) -> dict[BillOf, Usage]:
    """Sum the differences to bills recorded with the month, or since for users who wait for their bill."""
    found: defaultdict[BillOf, Usage] = defaultdict(Usage)
    for version in (frozen, *frozen.supplements):
        for row in late_rows(version):
            found[row["user_id"], row["usage_month"]] += Usage(row["calls"], Decimal(row["cost_cents"]))
    return found


def _hold_drafts(session: MonthSession, rules: HoldRules) -> None:
    """Hold those of the month's new drafts that are not to be sent."""
    month, planned = session.month, invoices.c.state == State.PLANNED.value
    # Most bills no rule reaches: a month may have a million of them.
    large = sa.and_(planned, invoices.c.total_cents > rules.never_below)
    with session.writing() as connection:
        holding = holding_of(connection, month, large, rules)
        people = holding.people
        named = sa.true() if people.everybody else invoices.c.user_id.in_(people.users)
        holds = [
            Hold(bill, *held)
            for bill in read_waiting(connection, month, sa.or_(large, sa.and_(planned, named)))
            if (held := holding.why(bill.user_id, bill.currency, bill.total_cents, bill.lines_hash))
        ]
        write_holds(connection, month, holds, session.actor, datetime.now(UTC))
