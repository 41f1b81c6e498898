"""Derives once more, from what was frozen, how a month's usage is rated and what its fees come to.

Shares no arithmetic with `core/plans.py` and `core/pricing.py`: whole months are divided here as fractions,
there as differences of rounded sums from the month's start.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from spell_billing.core.money import format_money
from spell_billing.core.month import Month
from spell_billing.ledger.rows import Bill

_HALF = Fraction(1, 2)
_Row = dict[str, Any]
"""A row of frozen plans and discounts, without its user."""


class Terms(msgspec.Struct):
    """What was frozen for one user, worked out: amounts in minor units, shares of one.

    `plan_id` is the month's last plan; None also where it is not known.
    """

    included: int = 0
    fee: int = 0
    minimum: int = 0
    usage_discount: Fraction = Fraction(0)
    discount: Fraction = Fraction(0)
    amount_off: int = 0
    plan_id: str | None = None


def charges(usage_cents: int, included_cents: int, rating: str | None) -> dict[str, int]:
    """Return by kind of line what rounded usage comes to under a rating as the ledger keeps it."""
    given = terms_of(included_cents, rating)
    covered = min(given.included, usage_cents) if usage_cents > 0 else 0
    beyond = usage_cents - covered
    usage_discount = _part_of(beyond, given.usage_discount)
    spent = given.fee + (beyond - usage_discount if beyond > usage_discount else 0)
    minimum = given.minimum - spent if given.minimum > spent else 0
    in_all = given.fee + beyond - usage_discount + minimum
    return {
        "included": -covered,
        "usage_discount": -usage_discount,
        "minimum": minimum,
        "discount": -taken_off(given, in_all),
    }


def taken_off(terms: Terms, cents: int) -> int:
    """Return what discounts take off fee, usage and minimum that come to this."""
    percent = _part_of(cents, terms.discount)
    left = cents - percent
    return percent + (min(terms.amount_off, left) if left > 0 else 0)


def fee_discount(rating: str | None) -> int:
    """Return what discounts take off the fee alone, of a rating as the ledger keeps it."""
    terms = terms_of(0, rating)
    return taken_off(terms, terms.fee)


@lru_cache(maxsize=1_000)
def terms_of(included_cents: int, rating: str | None) -> Terms:
    """Return a rating as the ledger keeps it; not to be changed."""
    given: dict[str, Any] = {} if rating is None else json.loads(rating)
    return Terms(
        included_cents,
        int(given.get("fee_cents", 0)),
        int(given.get("minimum_cents", 0)),
        Fraction(given.get("usage_discount", "0")),
        Fraction(given.get("discount", "0")),
        int(given.get("discount_cents", 0)),
    )


def usage_discount_alone(rating: str | None) -> str | None:
    """Return of a rating what counts for the usage of a month that had no bill of its own."""
    share = None if rating is None else json.loads(rating).get("usage_discount")
    return None if share is None else json.dumps({"usage_discount": share})


def frozen_terms(month: Month, path: Path) -> tuple[dict[str, Terms], set[str]]:
    """Return what was frozen for each user; and users whose account had a plan that did not exist."""
    spans: defaultdict[str | None, list[_Row]] = defaultdict(list)
    discounts: defaultdict[str | None, list[_Row]] = defaultdict(list)
    unknown, users = set[str](), set[str]()
    for user_id, row in _frozen_rows(path):
        if user_id is not None:
            users.add(user_id)
        if row["kind"] == "discount":
            discounts[user_id].append(row)
        elif user_id and row["plan_id"] and not row["name"] and row["starts_at"] == row["ends_at"]:
            unknown.add(user_id)
        else:
            spans[user_id].append(row)
    found = {}
    # Most users have what others have: each combination is worked out once.
    worked_out: dict[tuple[int, ...], Terms] = {}
    for user_id in users - unknown:
        own, taken_off = spans[user_id], discounts.get(user_id, [])
        key = (*map(id, own), *map(id, taken_off))
        if key not in worked_out:
            worked_out[key] = _work_out(month, own, [*discounts[None], *taken_off])
        found[user_id] = worked_out[key]
    return found, unknown


def _frozen_rows(path: Path) -> Iterator[tuple[str | None, _Row]]:
    """Return each row with its user; equal ones are one object. Times are in microseconds."""
    with pq.ParquetFile(path) as file:
        table = file.read()
    users, others = table["user_id"].to_pylist(), table.drop_columns("user_id")
    columns = (
        (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_pylist()
        for column in others.columns
    )
    known: dict[tuple[Any, ...], _Row] = {}
    for user_id, cells in zip(users, zip(*columns, strict=True), strict=True):
        row = known.get(cells)
        if row is None:
            row = known[cells] = dict(zip(others.column_names, cells, strict=True))
        yield user_id, row


def _work_out(month: Month, own: Sequence[_Row], discounts: Iterable[_Row]) -> Terms:
    terms = Terms(plan_id=_last_plan(month, own))
    for row in own:
        start, end = _part(month, row)
        terms.included += _between(row["included_cents"], start, end)
        terms.fee += _between(row["fee_cents"], start, end)
        terms.minimum += _between(row["minimum_cents"], start, end)
        terms.usage_discount += Fraction(row["percent"]) / 100 * (end - start)
    for row in discounts:
        _take_off(terms, month, row, own)
    terms.usage_discount = min(terms.usage_discount, Fraction(1))
    terms.discount = min(terms.discount, Fraction(1))
    return terms


def _last_plan(month: Month, own: Iterable[_Row]) -> str | None:
    parts = [(*reversed(_part(month, row)), row["plan_id"]) for row in own]
    return max(((end, plan_id) for end, start, plan_id in parts if start < end), default=(None, None))[1]


def _take_off(terms: Terms, month: Month, row: _Row, own: Sequence[_Row]) -> None:
    valid = _part(month, row)
    stretches = [valid]
    if row["plan_id"] is not None:
        parts = (_part(month, span) for span in own if span["plan_id"] == row["plan_id"])
        stretches = [(max(start, valid[0]), min(end, valid[1])) for start, end in parts]
    for start, end in stretches:
        if start < end:
            terms.discount += Fraction(row["percent"]) / 100 * (end - start)
            terms.amount_off += _between(row["amount_cents"], start, end)


def _part(month: Month, row: _Row) -> tuple[Fraction, Fraction]:
    """Return where a row's time begins and ends in the month, as shares of it; an empty one outside of it."""
    starts_at, ends_at = row["starts_at"], row["ends_at"]
    start = _share(month, starts_at) if starts_at is not None else Fraction(0)
    end = _share(month, ends_at) if ends_at is not None else Fraction(1)
    return start, max(start, end)


def _share(month: Month, moment_us: int) -> Fraction:
    first_us, end_us = month.first_second * 10**6, (month.last_second + 1) * 10**6
    share = Fraction(moment_us - first_us, end_us - first_us)
    return min(max(share, Fraction(0)), Fraction(1))


def _between(cents: int, start: Fraction, end: Fraction) -> int:
    return _nearest(cents * end) - _nearest(cents * start)


def _part_of(cents: int, share: Fraction) -> int:
    """Return the nearest whole part of an amount: in integers, a fifth of the time of `_nearest`."""
    whole, rest = divmod(abs(cents) * share.numerator, share.denominator)
    nearest = whole + (2 * rest >= share.denominator)
    return -nearest if cents < 0 else nearest


def _nearest(amount: Fraction) -> int:
    return -int(_HALF - amount) if amount < 0 else int(amount + _HALF)


def in_words(terms: Terms, bill: Bill) -> str:
    """Write what was frozen, in the currency of a bill."""
    names = ("included", "fee", "minimum", "amount_off")
    amounts = [f"{name} {format_money(getattr(terms, name), bill.currency)}" for name in names]
    return ", ".join(
        [f"plan {terms.plan_id}", *amounts, f"discounts {terms.usage_discount} and {terms.discount}"]
    )
