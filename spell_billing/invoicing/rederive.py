"""Derives a month's bills once more, from frozen usage and the ledger's history alone.

Written apart from drafting and from the ledger's own reading of its history: it shares no arithmetic with
them, so that a mistake there, or a ledger that was altered, shows here.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal

import msgspec
import pyarrow.parquet as pq
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.items import OTHER, item_name
from spell_billing.core.money import EXACT, exact_sum, plain
from spell_billing.core.month import Month
from spell_billing.core.outcomes import State
from spell_billing.invoicing.credit_findings import credit_findings
from spell_billing.invoicing.findings import Finding, Kind
from spell_billing.invoicing.grant_findings import grant_findings, left_out_findings
from spell_billing.invoicing.rederive_fees import plan_findings
from spell_billing.invoicing.rederive_late import given_back_findings, late_amounts
from spell_billing.invoicing.rederive_plans import charges
from spell_billing.invoicing.rederive_positions import (
    CREDITS,
    EVIDENCE,
    KINDS,
    LATE,
    OF_PLANS,
    TOLD,
    Line,
    money,
    read_lines,
    require_readable,
    rounded_cents,
)
from spell_billing.ledger.rows import Bill
from spell_billing.ledger.schema import audit
from spell_billing.usage.frozen import USER_ITEMS_FILE, FrozenUsage
from spell_billing.usage.user_usage import open_user_usage

_TAKEN_FROM_STRIPE = ("adopted", "revised", "settled")
"""Actions that may bring what a person changed at Stripe onto a bill."""


class _Usage(msgspec.Struct, frozen=True):
    calls: int = 0
    cents: Decimal = Decimal(0)

    def plus(self, calls: int, cents: Decimal) -> "_Usage":
        return _Usage(self.calls + calls, exact_sum(self.cents, cents))


def rederive(
    connection: Connection, month: Month, frozen: FrozenUsage, by_user: Mapping[str, Sequence[Bill]]
) -> Iterator[Finding]:
    """Return what does not follow from the month's frozen usage and the ledger's history.

    `by_user` has all of the month's bills, every generation, oldest first.
    """
    query = sa.select(audit.c.user_id, audit.c.generation, audit.c.action).where(
        audit.c.month == str(month), audit.c.action.in_(_TAKEN_FROM_STRIPE)
    )
    taken = {tuple(row) for row in connection.execute(query)}
    # Their content is that of an invoice found at Stripe.
    adopted = {(user_id, generation) for user_id, generation, action in taken if action == "adopted"}
    changed = {(user_id, generation) for user_id, generation, _ in taken}
    latest = {user_id: generations[-1] for user_id, generations in by_user.items()}
    for bill in latest.values():
        of = bill.user_id, bill.generation
        yield from content_findings(bill, adopted=of in adopted)
        if bill.late_lines and of not in changed:
            yield from _changed_by_nobody(bill)
    found_at_stripe = {user_id for user_id, _ in adopted}
    explained = {user_id: bill for user_id, bill in latest.items() if user_id not in found_at_stripe}
    yield from plan_findings(connection, month, frozen, explained)
    yield from _late_evidence(frozen, latest)
    yield from late_amounts(connection, month, latest)
    yield from given_back_findings(connection, month, latest)
    yield from credit_findings(connection, latest)
    yield from grant_findings(connection, latest)
    as_drafted = {
        user_id: bill for user_id, bill in latest.items() if (user_id, bill.generation) not in changed
    }
    yield from left_out_findings(connection, as_drafted)


def _changed_by_nobody(bill: Bill) -> Iterator[Finding]:
    """Find what a bill says was changed at Stripe, although nothing of it was ever read there."""
    cents = sum(line.amount_cents for line in read_lines(bill.lines) if line.kind == "changed_at_stripe")
    if cents:
        expected = "nothing changed at Stripe, by the audit trail"
        yield Finding.of(Kind.LINES_DO_NOT_ADD_UP, bill, expected, f"{money(bill, cents)} changed")


def item_findings(frozen: FrozenUsage, latest: Mapping[str, Bill]) -> Iterator[Finding]:
    """Find lines that do not hold what the user has of their item; `OTHER` holds what no line names.

    `latest` are bills by user. A bill with one line of usage is not by item; and one of other usage, as an
    invoice that was found at Stripe may be, has that difference told elsewhere.
    """
    if frozen.manifest.items_by is None:
        return
    with open_user_usage(frozen, USER_ITEMS_FILE) as file:
        rows = file.read(["user_id", "item", "calls", "cost_cents"]).to_pylist()
    items: defaultdict[str, defaultdict[str, _Usage]] = defaultdict(lambda: defaultdict(_Usage))
    for row in rows:
        own, name = items[row["user_id"]], item_name(row["item"])
        own[name] = own[name].plus(row["calls"], Decimal(row["cost_cents"]))
    for user_id, bill in latest.items():
        lines, own = _usage_by_item(bill), items[user_id]
        if len(lines) <= 1 or _Usage(bill.calls, bill.usage_cents) != _sum_of(own.values()):
            continue
        expected = {name: own[name] for name in lines if name != OTHER}
        expected[OTHER] = _sum_of(each for name, each in own.items() if name not in expected)
        for name, usage in expected.items():
            found = lines.get(name, _Usage())
            if found != usage:
                words = (
                    f"{each.calls} calls, {plain(each.cents)} cents of item {name}" for each in (usage, found)
                )
                yield Finding.of(Kind.LINES_DO_NOT_ADD_UP, bill, *words)


def _usage_by_item(bill: Bill) -> dict[str, _Usage]:
    """Return what a bill's lines of usage hold by the item that each names."""
    start = f" - {Month.parse(bill.month).label} - "
    return {
        line.description.partition(start)[2].rpartition(" (")[0]: _Usage(
            line.calls, Decimal(line.usage_cents)
        )
        for line in read_lines(bill.lines)
        if line.kind == "usage" and start in line.description
    }


def _sum_of(found: Iterable[_Usage]) -> _Usage:
    total = _Usage()
    for each in found:
        total = total.plus(each.calls, each.cents)
    return total


def sum_findings(bill: Bill) -> Iterator[Finding]:
    """Check a bill against itself: its usage and its total are those of its lines.

    Raises:
        IntegrityError: when the bill was altered so that nothing can be read from it.
    """
    lines = require_readable(bill)
    of_usage = [(line, Decimal(line.usage_cents)) for line in lines if line.kind == "usage"]
    usage_cents = exact_sum(*(cents for _, cents in of_usage))
    total_cents = sum(line.amount_cents for line in lines)
    charged = [(line.amount_cents, cents) for line, cents in of_usage]
    differences = list(_rounding_differences(charged, usage_cents))
    if usage_cents != bill.usage_cents:
        differences.append(
            (f"{plain(bill.usage_cents)} cents of usage", f"lines for {plain(usage_cents)} cents")
        )
    if total_cents != bill.total_cents:
        differences.append((f"total {bill.total_cents}", f"lines {total_cents}"))
    if bill.state is State.SKIPPED and bill.total_cents > 0:
        differences.append(("nothing charged, skipped", f"total {bill.total_cents}"))
    differences.extend(
        ("a kind of line that bills have", line.kind) for line in lines if line.kind not in KINDS
    )
    for expected, found in differences:
        yield Finding.of(Kind.LINES_DO_NOT_ADD_UP, bill, expected, found)


def _rounding_differences(
    of_usage: Sequence[tuple[int, Decimal]], total: Decimal
) -> Iterator[tuple[str, str]]:
    """Yield where lines of usage, as (amount, exact cents), are not rounded by the largest remainder."""
    charged = sum([amount for amount, _ in of_usage])
    if charged != rounded_cents(total):
        yield f"{plain(total)} cents of usage", f"{'line' if len(of_usage) == 1 else 'lines'} of {charged}"
        return
    if len(of_usage) <= 1:
        return
    # What a line charges beyond its exact cents: at most a part of a cent, and of those that were rounded up
    # none with more of it than one that was rounded down would have.
    beyond = [EXACT.subtract(amount, cents) for amount, cents in of_usage]
    up, down = max(beyond), min(beyond)
    if up >= 1 or down <= -1:
        for (amount, cents), each in zip(of_usage, beyond, strict=True):
            if abs(each) >= 1:
                yield f"{plain(cents)} cents of usage", f"line of {amount}"
    if up > 0 > down and up - down > 1:
        yield "lines rounded by the largest remainder", f"one by {plain(up)}, another by {plain(down)} cents"


def content_findings(bill: Bill, *, adopted: bool = False) -> Iterator[Finding]:
    """Check a user's latest bill against itself: what its plan covers, its columns, and its fingerprint.

    The content of an adopted bill is that of an invoice found at Stripe, which its account need not explain.
    """
    lines = read_lines(bill.lines)
    cents_of = _by_kind(lines)
    covered = -cents_of["included"]
    due = charges(rounded_cents(bill.usage_cents), bill.included_cents, bill.rating)
    most = -due["included"]
    if covered > most or (covered != most and not adopted):
        expected = f"{money(bill, most)} covered by the plan"
        yield Finding.of(Kind.ALLOWANCE_DIFFERS, bill, expected, money(bill, covered))
    for kind in () if adopted else ("usage_discount", "minimum", "discount"):
        cents = cents_of[kind]
        if cents != due[kind]:
            name = kind.replace("_", " ")
            yield Finding.of(
                Kind.PLAN_DIFFERS, bill, f"{name} {money(bill, due[kind])}", f"{name} {money(bill, cents)}"
            )
    columns = {
        "covered_cents": covered,
        "plan_cents": sum([cents_of[kind] for kind in OF_PLANS]),
        "late_cents": sum([cents_of[kind] for kind in LATE]),
        "credit_applied_cents": -sum([cents_of[kind] for kind in CREDITS]),
        "late_lines": len([line for line in lines if line.kind in TOLD]),
    }
    for name, cents in columns.items():
        if getattr(bill, name) != cents:
            column = f"{name} {getattr(bill, name)}"
            yield Finding.of(Kind.LINES_DO_NOT_ADD_UP, bill, column, f"lines {cents}")
    forgiven = -cents_of["forgiven"]
    if forgiven and (bill.state is not State.SKIPPED or bill.total_cents):
        expected = f"{money(bill, forgiven)} not charged, and no invoice"
        yield Finding.of(Kind.LINES_DO_NOT_ADD_UP, bill, expected, f"{bill.state}, {bill.total_cents}")
    if adopted:
        return
    carried = cents_of["remainder"] or (
        -bill.total_cents if bill.total_cents < 0 and bill.state is not State.HELD else 0
    )
    if bill.carried_cents != carried and bill.state is not State.SETTLED:
        column = f"carried_cents {bill.carried_cents}"
        yield Finding.of(Kind.LINES_DO_NOT_ADD_UP, bill, f"carried_cents {carried}", column)
    fingerprint = _fingerprint(bill, lines)
    if fingerprint != bill.lines_hash:
        yield Finding.of(Kind.CONTENT_ALTERED, bill, f"content {bill.lines_hash[:12]}", fingerprint[:12])


def _by_kind(lines: Sequence[Line]) -> Mapping[str, int]:
    """Add up the amounts of lines by their kind; no line is zero."""
    found: defaultdict[str, int] = defaultdict(int)
    for line in lines:
        found[line.kind] += line.amount_cents
    return found


def _late_evidence(frozen: FrozenUsage, latest: Mapping[str, Bill]) -> Iterator[Finding]:
    """Check that late lines hold what was recorded as late with the month, no more and no less."""
    recorded: defaultdict[tuple[str, str], _Usage] = defaultdict(_Usage)
    for version in (frozen, *frozen.supplements):
        if version.manifest.late is not None:
            with pq.ParquetFile(version.path(version.manifest.late.file)) as file:
                for row in file.read().to_pylist():
                    of = row["user_id"], row["usage_month"]
                    recorded[of] = recorded[of].plus(row["calls"], Decimal(row["cost_cents"]))
    billed: defaultdict[tuple[str, str], _Usage] = defaultdict(_Usage)
    for bill in latest.values():
        for line in read_lines(bill.lines) if bill.late_lines else ():
            if line.kind in EVIDENCE:
                of = bill.user_id, line.usage_month
                billed[of] = billed[of].plus(line.calls, Decimal(line.usage_cents))
    for of in sorted(recorded.keys() | billed.keys()):
        expected, found = recorded[of], billed[of]
        if expected != found:
            user_id, usage_month = of
            owner = latest.get(user_id)
            yield Finding(
                Kind.LATE_USAGE_DIFFERS,
                user_id,
                owner.stripe_invoice_id if owner else None,
                f"{expected.calls} late calls of {usage_month}, {plain(expected.cents)} cents",
                f"{found.calls} calls, {plain(found.cents)} cents" if owner else "no bill",
            )


def _fingerprint(bill: Bill, lines: Sequence[Line]) -> str:
    content: tuple[object, ...] = (
        *(bill.stripe_customer_id or "", bill.currency, bill.description, lines),
        *([] if bill.terms is None else [bill.terms]),
    )
    return hashlib.sha256(msgspec.json.encode(content)).hexdigest()
