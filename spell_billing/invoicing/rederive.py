"""Derives a month's bills once more, from frozen usage and the ledger's history alone.

Written apart from drafting and from the ledger's own reading of its history: it shares no arithmetic with
them, so that a mistake there, or a ledger that was altered, shows here.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from itertools import islice
from typing import Any

import msgspec
import pyarrow.parquet as pq
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.money import exact_sum, format_money, plain
from spell_billing.core.month import Month
from spell_billing.core.outcomes import State
from spell_billing.invoicing.credit_findings import credit_findings
from spell_billing.invoicing.findings import Finding, Kind
from spell_billing.ledger.queries import of_drafted_months
from spell_billing.ledger.rows import Bill
from spell_billing.ledger.schema import audit, invoices
from spell_billing.usage.contract import FrozenUsage

_ONE = Decimal(1)
_USERS_A_QUERY = 500
_LATE = frozenset({"late_usage", "adjustment"})
_EVIDENCE = frozenset({"late_usage", "unbilled", "moved"})
_BESIDE_USAGE = frozenset({"remainder", "brought_forward", "changed_at_stripe"})
_CREDITS = frozenset({"credit", "brought_forward"})
_STANDING = frozenset({"finalized", "paid", "payment_failed", "skipped"})
_NOT_SENT = frozenset({"planned", "held", "drafted", "failed", "parked"})


def rederive(
    connection: Connection, month: Month, frozen: FrozenUsage, by_user: Mapping[str, Sequence[Bill]]
) -> Iterator[Finding]:
    """Return what does not follow from the month's frozen usage and the ledger's history.

    Args:
        connection: To the ledger, for reading.
        month: The month.
        frozen: The version it was billed from.
        by_user: All of the month's bills, every generation, oldest first.
    """
    adopted = _adopted(connection, month)
    latest = [generations[-1] for generations in by_user.values()]
    for bill in latest:
        known = (bill.user_id, bill.generation) in adopted
        yield from _own_bill(bill, _read_lines(bill.lines), adopted=known)
    yield from _late_evidence(frozen, latest)
    yield from _late_amounts(connection, month, latest)
    yield from credit_findings(connection, {bill.user_id: bill for bill in latest})


class _Line(msgspec.Struct, frozen=True):
    """A line as the ledger keeps it: the order of the fields is that of the fingerprint."""

    kind: str
    description: str
    amount_cents: int
    usage_month: str
    calls: int = 0
    usage_cents: str = "0"


_read_lines = msgspec.json.Decoder(tuple[_Line, ...]).decode


def _own_bill(bill: Bill, lines: Sequence[_Line], *, adopted: bool) -> Iterator[Finding]:
    """Check a bill against itself: what its plan covers, its columns, and its fingerprint."""
    covered = -sum(line.amount_cents for line in lines if line.kind == "included")
    most = min(bill.included_cents, max(0, _rounded(bill.usage_cents)))
    if covered > most or (covered != most and not adopted):
        yield _finding(
            Kind.ALLOWANCE_DIFFERS, bill, f"{_money(bill, most)} covered by the plan", _money(bill, covered)
        )
    columns = {
        "covered_cents": covered,
        "late_cents": sum(line.amount_cents for line in lines if line.kind in _LATE),
        "credit_applied_cents": -sum(line.amount_cents for line in lines if line.kind in _CREDITS),
        "late_lines": sum(1 for line in lines if line.kind in _LATE | _EVIDENCE | _BESIDE_USAGE),
    }
    for name, cents in columns.items():
        if getattr(bill, name) != cents:
            yield _finding(Kind.LINES_DO_NOT_ADD_UP, bill, f"{name} {getattr(bill, name)}", f"lines {cents}")
    left = sum(line.amount_cents for line in lines if line.kind == "remainder")
    carried = left or (-bill.total_cents if bill.total_cents < 0 and bill.state is not State.HELD else 0)
    if bill.carried_cents != carried and not adopted and bill.state is not State.SETTLED:
        yield _finding(
            Kind.LINES_DO_NOT_ADD_UP, bill, f"carried_cents {carried}", f"carried_cents {bill.carried_cents}"
        )
    if not adopted and _fingerprint(bill, lines) != bill.lines_hash:
        yield _finding(
            Kind.CONTENT_ALTERED, bill, f"content {bill.lines_hash[:12]}", _fingerprint(bill, lines)[:12]
        )


def _late_evidence(frozen: FrozenUsage, latest: Iterable[Bill]) -> Iterator[Finding]:
    """Check that late lines hold what was recorded as late with the month, no more and no less."""
    recorded: defaultdict[tuple[str, str], tuple[int, Decimal]] = defaultdict(lambda: (0, Decimal(0)))
    for version in (frozen, *frozen.supplements):
        if version.manifest.late is not None:
            with pq.ParquetFile(version.directory / version.manifest.late.file.name) as file:
                for row in file.read().to_pylist():
                    calls, cents = recorded[row["user_id"], row["usage_month"]]
                    recorded[row["user_id"], row["usage_month"]] = (
                        calls + row["calls"],
                        exact_sum(cents, Decimal(row["cost_cents"])),
                    )
    bills = {bill.user_id: bill for bill in latest}
    told: defaultdict[tuple[str, str], tuple[int, Decimal]] = defaultdict(lambda: (0, Decimal(0)))
    for bill in bills.values():
        for line in _read_lines(bill.lines) if bill.late_lines else ():
            if line.kind in _EVIDENCE:
                calls, cents = told[bill.user_id, line.usage_month]
                told[bill.user_id, line.usage_month] = (
                    calls + line.calls,
                    exact_sum(cents, Decimal(line.usage_cents)),
                )
    for user_id, usage_month in sorted(recorded.keys() | told.keys()):
        expected, found = recorded[user_id, usage_month], told[user_id, usage_month]
        if expected != found:
            owner = bills.get(user_id)
            yield Finding(
                Kind.LATE_USAGE_DIFFERS,
                user_id,
                owner.stripe_invoice_id if owner else None,
                f"{expected[0]} late calls of {usage_month}, {plain(expected[1])} cents",
                f"{found[0]} calls, {plain(found[1])} cents" if owner else "no bill",
            )


@dataclass(slots=True)
class _Position:
    """All that bills hold of one user's usage of a month."""

    usage_cents: Decimal = Decimal(0)
    charged_cents: int = 0
    forgiven_cents: int = 0
    withheld_cents: int = 0
    included_cents: int | None = None
    waits: bool = False
    holders: set[str] = field(default_factory=set)


def _late_amounts(connection: Connection, month: Month, latest: Iterable[Bill]) -> Iterator[Finding]:
    """Check that what was charged for a month in all, late lines too, is the rating of its whole usage."""
    concerned = {
        bill.user_id: bill
        for bill in latest
        if any(line.kind in _LATE for line in (_read_lines(bill.lines) if bill.late_lines else ()))
    }
    users = iter(sorted(concerned))
    while chunk := list(islice(users, _USERS_A_QUERY)):
        positions: defaultdict[tuple[str, str], _Position] = defaultdict(_Position)
        for row in _latest_bills(connection, chunk):
            _take(positions, row)
        for (user_id, usage_month), each in sorted(positions.items()):
            if str(month) not in each.holders or len(each.holders) < 2 or each.waits:  # noqa: PLR2004 - itself
                continue
            target = _rated(each.usage_cents, each.included_cents or 0)
            least, most = target - each.forgiven_cents, target + each.withheld_cents
            if not least <= each.charged_cents <= most:
                bill = concerned[user_id]
                due = _money(bill, least if each.charged_cents < least else most)
                yield _finding(
                    Kind.LATE_USAGE_DIFFERS,
                    bill,
                    f"{due} charged for {usage_month} in all",
                    _money(bill, each.charged_cents),
                )


def _take(positions: defaultdict[tuple[str, str], _Position], row: Any) -> None:
    own: dict[str, tuple[Decimal, int]] = {}
    for line in _read_lines(row.lines):
        if line.kind in _CREDITS | _BESIDE_USAGE | {"unbilled", "moved"}:
            continue
        usage_cents, cents = own.get(line.usage_month, (Decimal(0), 0))
        own[line.usage_month] = (
            exact_sum(usage_cents, Decimal(line.usage_cents)),
            cents + line.amount_cents,
        )
    own.setdefault(row.month, (Decimal(0), 0))
    for usage_month, (usage_cents, cents) in own.items():
        about = positions[row.user_id, usage_month]
        if about.included_cents is None and (row.stripe_customer_id or row.plan_id):
            about.included_cents = row.included_cents
        if row.state in _NOT_SENT or (row.state == "void" and row.reason != "written_off"):
            about.waits = True
            continue
        by_hand = row.state == "settled" and row.reason == "billed_by_hand"
        if row.state == "void" and cents < 0:
            continue
        about.holders.add(row.month)
        about.usage_cents = exact_sum(about.usage_cents, usage_cents)
        if row.state in _STANDING or by_hand:
            about.charged_cents += cents
        elif cents > 0:
            about.forgiven_cents += cents
        else:
            about.withheld_cents -= cents


def _latest_bills(connection: Connection, users: Sequence[str]) -> Iterable[Any]:
    rows = connection.execute(
        sa.select(invoices)
        .where(of_drafted_months(), invoices.c.user_id.in_(users))
        .order_by(invoices.c.month, invoices.c.generation)
    ).all()
    return {(row.user_id, row.month): row for row in rows}.values()


def _adopted(connection: Connection, month: Month) -> set[tuple[str, int]]:
    """Return the bills whose content is that of an invoice found at Stripe."""
    rows = connection.execute(
        sa.select(audit.c.user_id, audit.c.generation).where(
            audit.c.month == str(month), audit.c.action == "adopted"
        )
    )
    return {(user_id, generation) for user_id, generation in rows}


def _fingerprint(bill: Bill, lines: Sequence[_Line]) -> str:
    content: tuple[object, ...] = (
        *(bill.stripe_customer_id or "", bill.currency, bill.description, tuple(lines)),
        *([] if bill.terms is None else [bill.terms]),
    )
    return hashlib.sha256(msgspec.json.encode(content)).hexdigest()


def _rated(usage_cents: Decimal, included_cents: int) -> int:
    rounded = _rounded(usage_cents)
    return rounded - min(included_cents, max(0, rounded))


def _rounded(cents: Decimal) -> int:
    return int(cents.quantize(_ONE, ROUND_HALF_UP))


def _money(bill: Bill, cents: int) -> str:
    return format_money(cents, bill.currency)


def _finding(kind: Kind, bill: Bill, expected: str, found: str) -> Finding:
    return Finding(kind, bill.user_id, bill.stripe_invoice_id, expected, found)
