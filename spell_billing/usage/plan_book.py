"""Plans and discounts as they are frozen with a month, and looked up by user."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from spell_billing.core.month import Month
from spell_billing.core.plans import Discount, MonthPlan, PlanSpan, month_plan
from spell_billing.usage.disk import finished_file
from spell_billing.usage.frozen import FrozenFile, FrozenUsage

PLAN, DISCOUNT = "plan", "discount"
"""The kinds of rows."""

PLANS_SCHEMA = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("user_id", pa.string()),
        pa.field("plan_id", pa.string()),
        pa.field("name", pa.string(), nullable=False),
        pa.field("starts_at", pa.timestamp("us", "UTC")),
        pa.field("ends_at", pa.timestamp("us", "UTC")),
        pa.field("included_cents", pa.int64()),
        pa.field("fee_cents", pa.int64()),
        pa.field("minimum_cents", pa.int64()),
        pa.field("percent", pa.string()),
        pa.field("amount_cents", pa.int64()),
        pa.field("currency", pa.string()),
    ]
)
"""`kind` is `plan` (`percent` is taken off usage) or `discount` (of a user, or of all users of a plan)."""

PLANS_FILE = "plans.parquet"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class PlanBook:
    """The plans of a month by user, from a table in `PLANS_SCHEMA`."""

    def __init__(self, month: Month, table: pa.Table) -> None:
        self._month = month
        self._spans: defaultdict[str, list[PlanSpan]] = defaultdict(list)
        self._discounts: defaultdict[str, list[Discount]] = defaultdict(list)
        self._of_plans: list[Discount] = []
        self.unknown = set[str]()
        """Users whose account has a plan that did not exist: they may owe its fee."""
        # Most users share a few plans for the whole month: each is worked out once. Equal spans are one
        # object, and to hash their fields takes longer than the rest of a lookup.
        self._known: dict[tuple[int, ...], MonthPlan] = {}
        spans: dict[tuple[Any, ...], PlanSpan] = {}
        for kind, user_id, *row in zip(*map(_values, table.select(PLANS_SCHEMA.names).columns), strict=True):
            if kind == PLAN:
                if _is_unknown(*row):
                    self.unknown.add(user_id)
                    continue
                key = tuple(row)
                self._spans[user_id].append(spans.get(key) or spans.setdefault(key, _span_of(*row)))
            elif user_id is None:
                self._of_plans.append(_discount_of(*row))
            else:
                self._discounts[user_id].append(_discount_of(*row))

    def plan_of(self, user_id: str) -> MonthPlan | None:
        """Return what a user's plans and discounts come to in the month; None without any."""
        spans, own = self._spans.get(user_id, ()), self._discounts.get(user_id, ())
        if not spans and not own:
            return None
        key = (*map(id, spans), *map(id, own))
        found = self._known.get(key)
        if found is None:
            found = month_plan(self._month, spans, (*own, *self._of_plans))
            self._known[key] = found
        return found

    def has_plan(self, user_id: str) -> bool:
        """Return whether a plan of the user is known, in the month or the next."""
        return user_id in self._spans

    def last_plans(self) -> dict[str, str | None]:
        """Return the plan that each user with a plan in the month or the next was on last in the month."""
        return {user: plan.plan_id for user in self._spans if (plan := self.plan_of(user))}

    def users_charged_alone(self) -> set[str]:
        """Return the users to whom something is due, or may be, although they used nothing."""
        return self.unknown | {
            user for user in self._spans if (plan := self.plan_of(user)) and plan.charges_alone
        }


def _is_unknown(plan_id: str, name: str, starts_us: int | None, ends_us: int | None, *_: Any) -> bool:
    """Return whether a row stands for a plan that did not exist; see `build_plans`."""
    return bool(plan_id) and not name and starts_us is not None and starts_us == ends_us


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Read a column; times as microseconds, because most rows have one that another had before."""
    return list((column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_pylist())


def book_of(month: Month, table: pa.Table | None) -> PlanBook:
    """Return the plans of a month from what a source has; an empty book where it has none."""
    return PlanBook(month, PLANS_SCHEMA.empty_table() if table is None else table)


def read_book(frozen: FrozenUsage) -> PlanBook | None:
    """Read the plans that were frozen with a month; None where there were none."""
    if frozen.manifest.plans is None:
        return None
    with pq.ParquetFile(frozen.path(frozen.manifest.plans)) as file:
        return PlanBook(frozen.month, file.read())


def subscriptions(frozen: FrozenUsage) -> pa.Table:
    """Return the subscriptions that were frozen with a month: user_id, plan_id, starts_at, ends_at.

    Of its own time and the next month's, and those that ended in the month before.
    """
    columns = ["user_id", "plan_id", "starts_at", "ends_at"]
    if frozen.manifest.plans is None:
        return PLANS_SCHEMA.empty_table().select(columns)
    with pq.ParquetFile(frozen.directory / frozen.manifest.plans.name) as file:
        table = file.read(["kind", *columns])
    has_time = pc.field("starts_at").is_valid() | pc.field("ends_at").is_valid()
    return table.filter((pc.field("kind") == PLAN) & has_time & (pc.field("plan_id") != "")).select(columns)


def running(subscribed: pa.Table, start: datetime, end: datetime) -> pa.Table:
    """Return the subscriptions that run at some time from `start` until before `end`."""
    begun = pc.field("starts_at").is_null() | (pc.field("starts_at") < end)
    return subscribed.filter(begun & (pc.field("ends_at").is_null() | (pc.field("ends_at") > start)))


def write_plans(table: pa.Table, directory: Path) -> FrozenFile:
    """Write a table in `PLANS_SCHEMA` beside a month's rows."""
    path = directory / PLANS_FILE
    pq.write_table(table, path, compression="zstd")
    return finished_file(path, len(table))


def last_plans(accounts: pa.Table, book: PlanBook) -> dict[str, str | None]:
    """Return the plan that each user was on last in the book's month.

    Who has none in the book is on the account's plan. A user with a subscription may have no account yet.
    """
    columns = (accounts[name].to_pylist() for name in ("user_id", "plan_id"))
    return dict(zip(*columns, strict=True)) | book.last_plans()


def _span_of(plan_id: str, name: str, starts_us: Any, ends_us: Any, *amounts: Any) -> PlanSpan:
    included, fee, minimum, percent, _, currency = amounts
    times = _time_of(starts_us), _time_of(ends_us)
    return PlanSpan(plan_id, name, *times, included, fee, minimum, Decimal(percent), currency)


def _discount_of(plan_id: str | None, name: str, starts_us: Any, ends_us: Any, *amounts: Any) -> Discount:
    _, _, _, percent, amount_cents, _ = amounts
    return Discount(name, Decimal(percent), amount_cents, _time_of(starts_us), _time_of(ends_us), plan_id)


def _time_of(us: int | None) -> datetime | None:
    return None if us is None else _EPOCH + timedelta(microseconds=us)
