"""Drafts the bills of a month's users: usage, accounts and history in, one draft per user out, in batches."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from spell_billing.core.drafting import Account, Credit, Draft, draft_invoice
from spell_billing.core.fees import NOTHING_CHARGED
from spell_billing.core.late import BillOf, LateUsage, Usage, late_usage
from spell_billing.core.month import Month
from spell_billing.core.outcomes import State
from spell_billing.core.terms import USUAL_POLICY, Policy
from spell_billing.ledger.history import History
from spell_billing.ledger.usual_bills import UserMonth
from spell_billing.usage.contract import UsageSource
from spell_billing.usage.frozen import FrozenUsage
from spell_billing.usage.plan_book import PlanBook, book_of, read_book
from spell_billing.usage.user_usage import ItemsOf, items_in_step, iter_user_drafting_input

Accounts = Callable[[], pa.Table]
"""Reads the billing accounts."""

T = TypeVar("T")

_COLUMNS = (
    *("user_id", "calls", "cost_cents", "account_known"),
    *("stripe_customer_id", "currency", "plan_id", "plan_name", "included_cents"),
    *("collection", "net_days", "po_number", "footer"),
)


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
    return drafts_and_rows(
        month, source, frozen, history_of, _as_all_others, only=only, policy=policy, accounts=accounts
    )


def _as_all_others(_: UserMonth) -> None:
    """Draft the usual bills as all others."""


def drafts_and_rows(
    month: Month,
    source: UsageSource,
    frozen: FrozenUsage,
    history_of: Callable[[Collection[BillOf]], History],
    usual: Callable[[UserMonth], T | None],
    *,
    only: Collection[str] | None = None,
    policy: Policy,
    accounts: Accounts | None,
) -> Iterator[Draft | T]:
    """Draft as `drafts_of` does; what `usual` makes of a usual bill stands in place of its draft."""
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
        month, batches, late, history, usual, only=only, books=(book, now), policy=policy, items_of=items_of
    )


def _drafts(
    month: Month,
    batches: Iterable[pa.RecordBatch],
    late: Mapping[str, Sequence[LateUsage]],
    history: History,
    usual: Callable[[UserMonth], T | None],
    *,
    only: Collection[str] | None,
    books: tuple[PlanBook | None, PlanBook | None],
    policy: Policy,
    items_of: ItemsOf,
) -> Iterator[Draft | T]:
    frozen_book, now = books
    has_usual_policy = policy == USUAL_POLICY
    beside_usage = late.keys() | history.credits.keys() | history.fees.keys() | history.grants.keys()
    for batch in batches:
        # Column by column: a dictionary per row would cost more than the drafting itself.
        columns = (batch.column(name).to_pylist() for name in _COLUMNS)
        for of in zip(*columns, strict=True):
            user_id, calls, cost_cents, known, customer_id, currency, plan_id, name, included, *terms = of
            if only is not None and user_id not in only:
                continue
            is_unknown = frozen_book is not None and user_id in frozen_book.unknown
            book = now if is_unknown and now else frozen_book
            plan = book.plan_of(user_id) if book else None
            items = items_of(user_id)
            if plan is None and not items and has_usual_policy and user_id not in beside_usage:
                bill = usual(of)
                if bill is not None:
                    yield bill
                    continue
            account = Account(customer_id, currency, plan_id, name, included or 0, *terms) if known else None
            # A discount of one's own is no plan: where the account's plan is unknown, it stays so.
            if book and plan is not None and account is not None and book.has_plan(user_id):
                account = msgspec.structs.replace(
                    account,
                    plan_id=plan.plan_id,
                    plan_name=plan.name,
                    included_cents=plan.rating.included_cents,
                )
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
