"""Plans, subscriptions and discounts as the platform has them: read as text, and checked."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from typing import Any

import pyarrow as pa

from spell_billing.core.errors import UsageError
from spell_billing.core.money import is_currency
from spell_billing.core.month import Month
from spell_billing.core.plans import PlanSpan, overlapping
from spell_billing.usage.accounts import refuse_duplicates
from spell_billing.usage.plan_book import DISCOUNT, PLAN, PLANS_SCHEMA
from spell_billing.usage.plan_values import cents_of, ended_before, percent_of, span_times, touches
from spell_billing.usage.tables import (
    ACCOUNTS_TABLE,
    BLANKS,
    COLUMNS,
    DISCOUNTS_TABLE,
    PLANS_TABLE,
    SUBSCRIPTIONS_TABLE,
    texts,
)

_NAMED = 5
_Row = tuple[str | None, ...]
"""A row in `PLANS_SCHEMA`, as text."""
_Time = tuple[datetime | None, datetime | None]
"""A start and an end; None is open."""


def build_plans(
    month: Month,
    *,
    accounts: pa.Table,
    plans: pa.Table,
    subscriptions: pa.Table,
    discounts: pa.Table,
    user_id: str | None = None,
) -> pa.Table:
    """Return each user's plans and discounts of the month and the next, from tables of text.

    A user with a row in the subscriptions is on the plans that they say, and on none between them or after
    the last; for all others the account's plan counts, for the whole month. Where some plan charges a fee or
    a minimum, an account's plan that does not exist is kept without a price: its user may owe one. With
    `user_id`, nobody else's discounts are taken.

    Returns:
        A table in `PLANS_SCHEMA`.

    Raises:
        UsageError: subscriptions of a user overlap, name a plan that does not exist, or end before they
            start; a discount counts twice; a user is written otherwise than the account; an amount, a
            percentage or a time cannot be read.
    """
    # What stands twice would be charged, or taken off, twice.
    refuse_duplicates(accounts["user_id"].drop_null(), ACCOUNTS_TABLE, "user_id")
    refuse_duplicates(plans["plan_id"].drop_null(), PLANS_TABLE, "plan_id")
    known = {row["plan_id"]: row for row in plans.to_pylist() if row["plan_id"] is not None}
    # One that nobody is on yet is refused as well: better before its first fee than on its day.
    plans_read = [_plan(row) for row in known.values()] if user_id is None else []
    by_user, subscribed = _subscribed(subscriptions, known, month)
    _refuse_overlaps(by_user, month)
    known_users = accounts["user_id"].drop_null().to_pylist()
    _refuse_other_writing(by_user, known_users, SUBSCRIPTIONS_TABLE)
    discount_rows = list(_discount_rows(discounts, known, month, user_id))
    _refuse_other_writing([user for _, user, *_ in discount_rows if user], known_users, DISCOUNTS_TABLE)
    may_owe = any(plan.fee_cents or plan.minimum_cents for plan in plans_read)
    of_account: dict[str, PlanSpan] = {}
    nothing = PlanSpan("", "", month.start, month.start)
    for account, plan_id in zip(
        accounts["user_id"].to_pylist(), accounts["plan_id"].to_pylist(), strict=True
    ):
        if account in subscribed and account not in by_user:
            # The account's plan does not count instead, and the subscriptions did not vanish.
            by_user[account].append(nothing)
        if account is None or account in subscribed or not (plan_id or "").strip():
            continue
        if plan_id not in known:
            if may_owe:
                by_user[account].append(PlanSpan(plan_id, "", month.start, month.start))
            continue
        if plan_id not in of_account:
            of_account[plan_id] = _plan(known[plan_id])
        by_user[account].append(of_account[plan_id])
    distinct = {id(span): span for spans in by_user.values() for span in spans}
    cells = {key: _cells(span) for key, span in distinct.items()}
    rows: list[_Row] = [(PLAN, user, *cells[id(span)]) for user in sorted(by_user) for span in by_user[user]]
    rows += discount_rows
    columns = zip(*rows, strict=True) if rows else ([] for _ in PLANS_SCHEMA)
    return pa.Table.from_arrays(
        [texts(column).cast(field.type) for column, field in zip(columns, PLANS_SCHEMA, strict=True)],
        schema=PLANS_SCHEMA,
    )


def _cells(span: PlanSpan) -> _Row:
    """Return what `PLANS_SCHEMA` has of a span, after its user."""
    return (
        *(span.plan_id, span.name, _as_text(span.starts_at), _as_text(span.ends_at)),
        *(str(span.included_cents), str(span.fee_cents), str(span.minimum_cents)),
        *(f"{span.usage_discount_percent:f}", None, span.currency),
    )


def _as_text(moment: datetime | None) -> str | None:
    return moment.replace(tzinfo=None).isoformat() + "Z" if moment is not None else None


def _plan(
    row: Mapping[str, str | None], starts_at: datetime | None = None, ends_at: datetime | None = None
) -> PlanSpan:
    where = f"{PLANS_TABLE} {row['plan_id']!r}"
    currency = (row["currency"] or "").strip().lower() or None
    if currency is not None and not is_currency(currency):
        raise UsageError(
            f"{where} has currency {row['currency']!r}, which is not a currency.",
            remedy="Set it to a three-letter code, as usd, or to null for the account's.",
        )
    return PlanSpan(
        plan_id=str(row["plan_id"]),
        name=(row["name"] or "").strip() or str(row["plan_id"]),
        starts_at=starts_at,
        ends_at=ends_at,
        included_cents=cents_of(row["included_cents"], "included_cents", where),
        fee_cents=cents_of(row["monthly_fee_cents"], "monthly_fee_cents", where),
        minimum_cents=cents_of(row["minimum_cents"], "minimum_cents", where),
        usage_discount_percent=percent_of(row["usage_discount_percent"], "usage_discount_percent", where),
        currency=currency,
    )


def _subscribed(
    subscriptions: pa.Table, plans: Mapping[str, Mapping[str, str | None]], month: Month
) -> tuple[defaultdict[str, list[PlanSpan]], set[str]]:
    """Return the spans of subscriptions by user, and every user with a subscription of any time."""
    by_user: defaultdict[str, list[PlanSpan]] = defaultdict(list)
    subscribed = set()
    # Many are on the same plan at the same times: each is read once.
    read: dict[tuple[str | None, ...], PlanSpan | None] = {}
    columns = (subscriptions[name].to_pylist() for name in COLUMNS[SUBSCRIPTIONS_TABLE])
    for user, *of in zip(*columns, strict=True):
        if not (user and user.strip(BLANKS)):
            _refuse_nobodys(*of, month=month)
            continue
        subscribed.add(user)
        key = tuple(of)
        if key not in read:
            read[key] = _subscription(user, *of, plans=plans, month=month)
        if (span := read[key]) is not None:
            by_user[user].append(span)
    return by_user, subscribed


def _refuse_nobodys(plan_id: str | None, starts: str | None, ends: str | None, *, month: Month) -> None:
    """Refuse a subscription without a user that counts in the month or the next: its fee would be lost."""
    where = f"{SUBSCRIPTIONS_TABLE} of the plan {plan_id!r} without a user_id"
    if touches(*span_times(starts, ends, where), month):
        raise UsageError(
            f"{SUBSCRIPTIONS_TABLE} has a row of the plan {plan_id!r} without a user_id.",
            remedy="Fill in its user_id, or delete the row, and bill the month again.",
        )


def _subscription(
    user_id: str,
    plan_id: str | None,
    starts: str | None,
    ends: str | None,
    *,
    plans: Mapping[str, Mapping[str, str | None]],
    month: Month,
) -> PlanSpan | None:
    """Return a subscription's time on its plan; one that ended in the month before has no price any more.

    None where it is of other months, or ended there when it began.
    """
    where = f"{SUBSCRIPTIONS_TABLE} of user {user_id}"
    starts_at, ends_at = span_times(starts, ends, where)
    if ended_before(ends_at, month):
        # One that ended when it began never ran, and is written as a plan that did not exist would be.
        return PlanSpan(plan_id or "", "", starts_at, ends_at) if starts_at != ends_at else None
    if not touches(starts_at, ends_at, month):
        return None
    plan = plans.get(plan_id or "")
    if plan is None:
        named = f"the plan {plan_id!r}, which {PLANS_TABLE} does not have"
        raise UsageError(
            f"{where} names {named if plan_id is not None else 'no plan'}.",
            remedy=f"Add the plan to {PLANS_TABLE}, or correct the subscription, and bill the month again.",
        )
    return _plan(plan, starts_at, ends_at)


def _discount_rows(
    discounts: pa.Table, plans: Mapping[str, Any], month: Month, user_id: str | None
) -> Iterator[_Row]:
    seen = set()
    times: defaultdict[tuple[Any, ...], list[_Time]] = defaultdict(list)
    for row in discounts.to_pylist():
        user, plan_id = (row[name] if (row[name] or "").strip() else None for name in ("user_id", "plan_id"))
        name = (row["name"] or "").strip() or "Discount"
        where = f"{DISCOUNTS_TABLE} {name!r}"
        starts_at, ends_at = span_times(row["starts_at"], row["ends_at"], where)
        one = (name, user, plan_id, starts_at, ends_at)
        if one in seen:
            raise UsageError(
                f"{where} stands twice, for the same user or plan and the same time.",
                remedy="Remove one of the rows, or give them names of their own if both are meant.",
            )
        seen.add(one)
        if user_id is not None and user not in {None, user_id}:
            continue
        of = (DISCOUNT, user, plan_id, name, _as_text(starts_at), _as_text(ends_at))
        if ended_before(ends_at, month):
            yield (*of, None, None, None, "0", "0", None)
        if not touches(starts_at, ends_at, month):
            continue
        if user is None and plan_id is None:
            raise UsageError(
                f"{where} is for no user and no plan.", remedy="Fill in its user_id, or its plan_id."
            )
        if plan_id is not None and plan_id not in plans:
            raise UsageError(
                f"{where} is for the plan {plan_id!r}, which {PLANS_TABLE} does not have.",
                remedy="Correct its plan_id.",
            )
        if row["percent"] is None and row["amount_cents"] is None:
            raise UsageError(
                f"{where} takes nothing off.", remedy="Fill in its percent, or its amount_cents."
            )
        percent, cents = (
            percent_of(row["percent"], "percent", where),
            cents_of(row["amount_cents"], "amount_cents", where),
        )
        same, time = times[name.casefold(), user, plan_id, percent, cents], (starts_at, ends_at)
        if any(_at_once(time, other) for other in same):
            raise UsageError(
                f"{where} stands twice, for the same user or plan and some of the same time.",
                remedy="Remove one, let the earlier one end where the later one starts (ends_at), or give "
                "them names of their own if both are meant.",
            )
        same.append(time)
        yield (*of, None, None, None, f"{percent:f}", str(cents), None)


def _at_once(one: _Time, other: _Time) -> bool:
    """Return whether two spans have some time in common; one that ends where it starts has none."""
    starts = [starts_at for starts_at, _ in (one, other) if starts_at is not None]
    ends = [ends_at for _, ends_at in (one, other) if ends_at is not None]
    return not starts or not ends or max(starts) < min(ends)


def _refuse_other_writing(users: Collection[str], accounts: Collection[str], table: str) -> None:
    """Refuse users without an account whose id is an account's but for case, or for spaces around it."""
    unknown = set(users).difference(accounts)
    if not unknown:
        return
    known = {account.strip().casefold(): account for account in accounts}
    found = {user: known[folded] for user in unknown if (folded := user.strip().casefold()) in known}
    if found:
        named = ", ".join(f"{user!r} ({found[user]!r})" for user in sorted(found)[:_NAMED])
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise UsageError(
            f"{table} writes user ids differently from {ACCOUNTS_TABLE}: {named}{more}.",
            remedy="Write each user_id as the account has it. Nothing was frozen.",
        )


def _refuse_overlaps(by_user: Mapping[str, list[PlanSpan]], month: Month) -> None:
    found: dict[str, tuple[PlanSpan, PlanSpan]] = {}
    # Most users share a few spans with others: each combination is looked at once.
    known: dict[tuple[int, ...], tuple[PlanSpan, PlanSpan] | None] = {}
    for user, spans in by_user.items():
        if len(spans) > 1:
            key = tuple(map(id, spans))
            if key not in known:
                known[key] = overlapping(spans, month)
            if pair := known[key]:
                found[user] = pair
    if found:
        named = ", ".join(
            f"{user} ({' and '.join(span.plan_id for span in found[user])})"
            for user in sorted(found)[:_NAMED]
        )
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise UsageError(
            f"{SUBSCRIPTIONS_TABLE} has users who are on two plans at once: {named}{more}.",
            remedy="Let the earlier one end where the later one starts (ends_at), and bill the month again. "
            "Nothing was frozen.",
        )
