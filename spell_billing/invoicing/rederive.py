"""Derives a month's bills once more, from frozen usage and the ledger's history alone.

Written apart from drafting and from the ledger's own reading of its history: it shares no arithmetic with
them, so that a mistake there, or a ledger that was altered, shows here.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import msgspec
import pyarrow.parquet as pq
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.money import EXACT, exact_sum, format_money, plain
from spell_billing.core.month import Month
from spell_billing.core.outcomes import State
from spell_billing.invoicing.credit_findings import credit_findings, grant_findings
from spell_billing.invoicing.findings import Finding, Kind
from spell_billing.invoicing.rederive_plans import charges, plan_findings, usage_discount_alone
from spell_billing.ledger.queries import of_drafted_months
from spell_billing.ledger.rows import Bill
from spell_billing.ledger.schema import audit, invoices
from spell_billing.usage.contract import FrozenUsage

_USERS_A_QUERY = 500
_LATE = frozenset({"late_usage", "adjustment"})
_EVIDENCE = frozenset({"late_usage", "unbilled", "moved"})
_BESIDE_USAGE = frozenset({"remainder", "brought_forward", "changed_at_stripe", "forgiven", "grant"})
_FEES = frozenset({"fee", "fee_in_advance"})
_OF_PLANS = _FEES | {"usage_discount", "minimum", "discount"}
_TOLD = _LATE | _EVIDENCE | _BESIDE_USAGE | {"fee_in_advance"}
_CREDITS = frozenset({"credit", "brought_forward"})
_STANDING = frozenset({"finalized", "paid", "payment_failed", "skipped"})
_NOT_SENT = frozenset({"planned", "held", "drafted", "failed", "parked"})


class _Line(msgspec.Struct, frozen=True):
    """A line as the ledger keeps it: the order of the fields is that of the fingerprint."""

    kind: str
    description: str
    amount_cents: int
    usage_month: str
    calls: int = 0
    usage_cents: str = "0"
    grant_id: str | msgspec.UnsetType = msgspec.UNSET


_read_lines = msgspec.json.Decoder(tuple[_Line, ...]).decode


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
    # Their content is that of an invoice found at Stripe.
    query = sa.select(audit.c.user_id, audit.c.generation).where(
        audit.c.month == str(month), audit.c.action == "adopted"
    )
    adopted = {(user_id, generation) for user_id, generation in connection.execute(query)}
    latest = {user_id: generations[-1] for user_id, generations in by_user.items()}
    for bill in latest.values():
        yield from content_findings(bill, adopted=(bill.user_id, bill.generation) in adopted)
    found_at_stripe = {user_id for user_id, _ in adopted}
    explained = {user_id: bill for user_id, bill in latest.items() if user_id not in found_at_stripe}
    yield from plan_findings(connection, month, frozen, explained)
    yield from _late_evidence(frozen, latest)
    yield from _late_amounts(connection, month, latest)
    yield from credit_findings(connection, latest)
    yield from grant_findings(connection, latest)


def sum_findings(bill: Bill) -> Iterator[Finding]:
    """Check a bill against itself: its usage and its total are those of its lines."""
    lines = _read_lines(bill.lines)
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
    for expected, found in differences:
        yield Finding.of(Kind.LINES_DO_NOT_ADD_UP, bill, expected, found)


def _rounding_differences(
    of_usage: Sequence[tuple[int, Decimal]], total: Decimal
) -> Iterator[tuple[str, str]]:
    """Yield where lines of usage, as (amount, exact cents), are not rounded by the largest remainder."""
    charged = sum([amount for amount, _ in of_usage])
    if charged != _rounded(total):
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
    lines = _read_lines(bill.lines)
    cents_of = _by_kind(lines)
    covered = -cents_of["included"]
    due = charges(_rounded(bill.usage_cents), bill.included_cents, bill.rating)
    most = -due["included"]
    if covered > most or (covered != most and not adopted):
        expected = f"{_money(bill, most)} covered by the plan"
        yield Finding.of(Kind.ALLOWANCE_DIFFERS, bill, expected, _money(bill, covered))
    for kind in () if adopted else ("usage_discount", "minimum", "discount"):
        cents = cents_of[kind]
        if cents != due[kind]:
            name = kind.replace("_", " ")
            yield Finding.of(
                Kind.PLAN_DIFFERS, bill, f"{name} {_money(bill, due[kind])}", f"{name} {_money(bill, cents)}"
            )
    columns = {
        "covered_cents": covered,
        "plan_cents": sum([cents_of[kind] for kind in _OF_PLANS]),
        "late_cents": sum([cents_of[kind] for kind in _LATE]),
        "credit_applied_cents": -sum([cents_of[kind] for kind in _CREDITS]),
        "late_lines": len([line for line in lines if line.kind in _TOLD]),
    }
    for name, cents in columns.items():
        if getattr(bill, name) != cents:
            column = f"{name} {getattr(bill, name)}"
            yield Finding.of(Kind.LINES_DO_NOT_ADD_UP, bill, column, f"lines {cents}")
    forgiven = -cents_of["forgiven"]
    if forgiven and (bill.state is not State.SKIPPED or bill.total_cents):
        expected = f"{_money(bill, forgiven)} not charged, and no invoice"
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


def _by_kind(lines: Sequence[_Line]) -> Mapping[str, int]:
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
        for line in _read_lines(bill.lines) if bill.late_lines else ():
            if line.kind in _EVIDENCE:
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


@dataclass(slots=True)
class _Position:
    """All that bills hold of one user's usage of a month."""

    usage_cents: Decimal = Decimal(0)
    charged_cents: int = 0
    forgiven_cents: int = 0
    withheld_cents: int = 0
    rating: tuple[int, str | None] | None = None
    waits: bool = False
    holders: set[str] = field(default_factory=set)


def _late_amounts(connection: Connection, month: Month, latest: Mapping[str, Bill]) -> Iterator[Finding]:
    """Check that what was charged for a month in all, late lines too, is the rating of its whole usage."""
    users = sorted(
        bill.user_id
        for bill in latest.values()
        if bill.late_lines and any(line.kind in _LATE for line in _read_lines(bill.lines))
    )
    for first in range(0, len(users), _USERS_A_QUERY):
        positions: defaultdict[tuple[str, str], _Position] = defaultdict(_Position)
        for row in _latest_bills(connection, users[first : first + _USERS_A_QUERY]):
            _take(positions, row)
        for (user_id, usage_month), each in sorted(positions.items()):
            if str(month) not in each.holders or each.holders == {str(month)} or each.waits:
                continue
            rounded = _rounded(each.usage_cents)
            target = rounded + sum(charges(rounded, *(each.rating or (0, None))).values())
            least, most = target - each.forgiven_cents, target + each.withheld_cents
            if not least <= each.charged_cents <= most:
                bill = latest[user_id]
                due = _money(bill, least if each.charged_cents < least else most)
                expected = f"{due} charged for {usage_month} in all"
                yield Finding.of(Kind.LATE_USAGE_DIFFERS, bill, expected, _money(bill, each.charged_cents))


def _take(positions: defaultdict[tuple[str, str], _Position], row: Any) -> None:
    """Add what one bill holds, of its own month and of others, to the positions."""
    own: dict[str, tuple[Decimal, int]] = {}
    given_up: defaultdict[str, int] = defaultdict(int)
    for line in _read_lines(row.lines):
        if line.kind == "forgiven":
            given_up[line.usage_month] -= line.amount_cents
        if line.kind in _CREDITS | _BESIDE_USAGE | _FEES | {"unbilled", "moved"}:
            continue
        usage_cents, cents = own.get(line.usage_month, (Decimal(0), 0))
        own[line.usage_month] = (
            exact_sum(usage_cents, Decimal(line.usage_cents)),
            cents + line.amount_cents,
        )
    own.setdefault(row.month, (Decimal(0), 0))
    for usage_month, (usage_cents, cents) in own.items():
        position = positions[row.user_id, usage_month]
        if position.rating is None and (row.stripe_customer_id or row.plan_id):
            # Of a plan that charged nothing else in that month, what is taken off usage counts.
            own_month = usage_month == row.month
            position.rating = (
                row.included_cents,
                row.rating if own_month else usage_discount_alone(row.rating),
            )
        if row.state in _NOT_SENT or (row.state == "void" and row.reason != "written_off"):
            position.waits = True
            continue
        if row.state == "void" and cents < 0:
            continue
        position.holders.add(row.month)
        position.usage_cents = exact_sum(position.usage_cents, usage_cents)
        # Of a small amount that was given up, nothing was charged.
        forgiven_cents = max(0, min(given_up[usage_month], cents))
        position.forgiven_cents += forgiven_cents
        by_hand = row.state == "settled" and row.reason == "billed_by_hand"
        if row.state in _STANDING or by_hand:
            position.charged_cents += cents - forgiven_cents
        elif cents > 0:
            position.forgiven_cents += cents
        else:
            position.withheld_cents -= cents


def _latest_bills(connection: Connection, users: Sequence[str]) -> Iterable[Any]:
    rows = connection.execute(
        sa.select(invoices)
        .where(of_drafted_months(), invoices.c.user_id.in_(users))
        .order_by(invoices.c.month, invoices.c.generation)
    ).all()
    return {(row.user_id, row.month): row for row in rows}.values()


def _fingerprint(bill: Bill, lines: Sequence[_Line]) -> str:
    content: tuple[object, ...] = (
        *(bill.stripe_customer_id or "", bill.currency, bill.description, lines),
        *([] if bill.terms is None else [bill.terms]),
    )
    return hashlib.sha256(msgspec.json.encode(content)).hexdigest()


def _rounded(cents: Decimal) -> int:
    return int(cents.quantize(Decimal(1), ROUND_HALF_UP))


def _money(bill: Bill, cents: int) -> str:
    return format_money(cents, bill.currency)
