"""Compares each line of a bill that is split by item with what was frozen of that item."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import reduce

from spell_billing.core.items import OTHER, item_name
from spell_billing.core.money import exact_sum, plain
from spell_billing.core.month import Month
from spell_billing.invoicing.findings import Finding, Kind
from spell_billing.ledger.rows import Bill
from spell_billing.usage.frozen import USER_ITEMS_FILE, FrozenUsage
from spell_billing.usage.user_usage import open_user_usage

_Usage = tuple[int, Decimal]
"""Calls, and their exact cost."""
_NOTHING: _Usage = (0, Decimal(0))


def item_findings(frozen: FrozenUsage, latest: Mapping[str, Bill]) -> Iterator[Finding]:
    """Find lines that do not hold what the user has of their item; `OTHER` holds what no line names.

    `latest` are bills by user. A bill with one line of usage is not by item; and one of other usage, as an
    invoice that was found at Stripe may be, has that difference told elsewhere.
    """
    if frozen.manifest.items_by is None:
        return
    with open_user_usage(frozen, USER_ITEMS_FILE) as file:
        rows = file.read(["user_id", "item", "calls", "cost_cents"]).to_pylist()
    items: defaultdict[str, dict[str, _Usage]] = defaultdict(dict)
    for row in rows:
        name = item_name(row["item"])
        before = items[row["user_id"]].get(name, _NOTHING)
        items[row["user_id"]][name] = _plus(before, (row["calls"], Decimal(row["cost_cents"])))
    for user_id, bill in latest.items():
        lines = _lines(bill)
        known = reduce(_plus, items[user_id].values(), _NOTHING)
        if len(lines) > 1 and (bill.calls, bill.usage_cents) == known:
            yield from _differences(bill, lines, items[user_id])


def _differences(bill: Bill, lines: Mapping[str, _Usage], items: Mapping[str, _Usage]) -> Iterator[Finding]:
    expected = {name: items.get(name, _NOTHING) for name in lines if name != OTHER}
    expected[OTHER] = reduce(_plus, (each for name, each in items.items() if name not in expected), _NOTHING)
    for name, usage in expected.items():
        found = lines.get(name, _NOTHING)
        if found != usage:
            words = (f"{calls} calls, {plain(cents)} cents of item {name}" for calls, cents in (usage, found))
            yield Finding.of(Kind.LINES_DO_NOT_ADD_UP, bill, *words)


def _lines(bill: Bill) -> dict[str, _Usage]:
    """Return what a bill's lines of usage hold by the item that each names."""
    start = f" - {Month.parse(bill.month).label} - "
    return {
        line.description.partition(start)[2].rpartition(" (")[0]: (line.calls, Decimal(line.usage_cents))
        for line in bill.parsed_lines
        if line.kind == "usage" and start in line.description
    }


def _plus(one: _Usage, other: _Usage) -> _Usage:
    return one[0] + other[0], exact_sum(one[1], other[1])
