"""Derives once more what was charged for a month in all, with late usage, and what went back twice.

Apart from drafting and from the ledger's own reading of its history, as all of `rederive.py`.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.money import exact_sum, format_money
from spell_billing.core.month import Month
from spell_billing.invoicing.findings import Finding, Kind
from spell_billing.invoicing.rederive_plans import charges, usage_discount_alone
from spell_billing.ledger import money_tables
from spell_billing.ledger.queries import of_drafted_months
from spell_billing.ledger.rows import Bill
from spell_billing.ledger.schema import audit, decisions, invoices

_USERS_A_QUERY = 500
LATE = frozenset({"late_usage", "adjustment"})
EVIDENCE = frozenset({"late_usage", "unbilled", "moved"})
BESIDE_USAGE = frozenset({"remainder", "brought_forward", "changed_at_stripe", "forgiven", "grant"})
FEES = frozenset({"fee", "fee_in_advance"})
OF_PLANS = FEES | {"usage_discount", "minimum", "discount"}
TOLD = LATE | EVIDENCE | BESIDE_USAGE | {"fee_in_advance"}
CREDITS = frozenset({"credit", "brought_forward"})
_STANDING = frozenset({"finalized", "paid", "payment_failed", "skipped"})
_NOT_SENT = frozenset({"planned", "held", "drafted", "failed", "parked"})


class Line(msgspec.Struct, frozen=True):
    """A line as the ledger keeps it: the order of the fields is that of the fingerprint."""

    kind: str
    description: str
    amount_cents: int
    usage_month: str
    calls: int = 0
    usage_cents: str = "0"
    grant_id: str | msgspec.UnsetType = msgspec.UNSET


read_lines = msgspec.json.Decoder(tuple[Line, ...]).decode


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
    peak_cents: int = 0

    @property
    def target_cents(self) -> int:
        rounded = rounded_cents(self.usage_cents)
        return rounded + sum(charges(rounded, *(self.rating or (0, None))).values())


def late_amounts(connection: Connection, month: Month, latest: Mapping[str, Bill]) -> Iterator[Finding]:
    """Check that what was charged for a month in all, late lines too, is the rating of its whole usage."""
    users = sorted(
        bill.user_id
        for bill in latest.values()
        if bill.late_lines and any(line.kind in LATE for line in read_lines(bill.lines))
    )
    corrected = _corrected(connection)
    for positions in _positions(connection, users):
        for (user_id, usage_month), each in sorted(positions.items()):
            if str(month) not in each.holders or each.holders == {str(month)} or each.waits:
                continue
            corrected_cents = corrected[user_id, usage_month]
            charged_cents = each.charged_cents - corrected_cents
            # What was corrected after late lines gave it back, the next bill charges.
            least = each.target_cents - each.forgiven_cents - max(0, corrected_cents)
            most = each.target_cents + each.withheld_cents - min(0, corrected_cents)
            if not least <= charged_cents <= most:
                bill = latest[user_id]
                due = money(bill, least if charged_cents < least else most)
                expected = f"{due} charged for {usage_month} in all"
                yield Finding.of(Kind.LATE_USAGE_DIFFERS, bill, expected, money(bill, charged_cents))


def given_back_findings(
    connection: Connection, month: Month, latest: Mapping[str, Bill]
) -> Iterator[Finding]:
    """Find invoices of which money was given back, and whose rows were given back on another bill as well.

    A person who said what the money was for has answered it.
    """
    back = _back_of(connection, month, latest)
    corrected = _corrected(connection)
    for positions in _positions(connection, sorted(back)):
        gone: Counter[str] = Counter()
        for (user_id, of), each in positions.items():
            bill = latest[user_id]
            charging = {line.usage_month for line in read_lines(bill.lines) if line.amount_cents > 0}
            if not each.waits and of in charging:
                beside = each.peak_cents - corrected[user_id, of] - each.target_cents
                gone[user_id] += max(0, beside)
        for user_id, gone_cents in sorted((+gone).items()):
            bill = latest[user_id]
            found = f"{money(bill, back[user_id])} of the invoice, and {money(bill, gone_cents)} for rows"
            yield Finding.of(Kind.GIVEN_BACK_TWICE, bill, "given back once", f"{found} that went")


def _back_of(connection: Connection, month: Month, latest: Mapping[str, Bill]) -> dict[str, int]:
    """Return what was given back of the month's standing invoices and not answered yet, by user."""
    by_note, by_charge = Counter[str](), Counter[str]()
    notes = money_tables.credit_notes.c
    of_month = money_tables.charges.c
    for each in connection.execute(sa.select(notes.stripe_invoice_id, notes.cents, notes.outcome)):
        by_note[each.stripe_invoice_id] += each.cents if each.outcome != "refused" else 0
    told = sa.select(audit.c.stripe_invoice_id, audit.c.amount_cents).where(
        audit.c.month == str(month), audit.c.action == "money_back", audit.c.amount_cents.is_not(None)
    )
    for invoice_id, cents in connection.execute(told):
        by_note[invoice_id] += cents
    taken = Counter[str]()
    for each in connection.execute(sa.select(money_tables.charges).where(of_month.month == str(month))):
        by_charge[each.stripe_invoice_id] += each.refunded_cents
        taken[each.stripe_invoice_id] += each.disputed_cents
    answered: Counter[str] = Counter()
    for each in connection.execute(_said().where(decisions.c.month == str(month))):
        answered[each.user_id] += int(each.content_hash.split(":")[1])
    found = {}
    for user_id, bill in latest.items():
        name = bill.stripe_invoice_id
        if name is None or bill.state not in _STANDING:
            continue
        cents = max(by_note[name], by_charge[name]) + taken[name] - answered[user_id]
        if bill.late_lines:
            lines = read_lines(bill.lines)
            cents += max(0, -sum(line.amount_cents for line in lines if line.kind == "changed_at_stripe"))
        if cents > 0:
            found[user_id] = cents
    return found


def _said() -> sa.Select[Any]:
    return sa.select(decisions.c.user_id, decisions.c.content_hash).where(
        decisions.c.kind == "given_back_settled"
    )


def _corrected(connection: Connection) -> Counter[tuple[str, str]]:
    """Return what people said was given back for rows that went, by the user and month of the usage."""
    found: Counter[tuple[str, str]] = Counter()
    for user_id, content in connection.execute(_said()):
        _, _, cents, usage_month = content.split(":")
        found[user_id, usage_month] += int(cents)
    return found


def _positions(
    connection: Connection, users: Sequence[str]
) -> Iterator[defaultdict[tuple[str, str], _Position]]:
    for first in range(0, len(users), _USERS_A_QUERY):
        positions: defaultdict[tuple[str, str], _Position] = defaultdict(_Position)
        for row in _latest_bills(connection, users[first : first + _USERS_A_QUERY]):
            _take(positions, row)
        yield positions


def _take(positions: defaultdict[tuple[str, str], _Position], row: Any) -> None:
    """Add what one bill holds, of its own month and of others, to the positions."""
    own: dict[str, tuple[Decimal, int]] = {}
    given_up: defaultdict[str, int] = defaultdict(int)
    for line in read_lines(row.lines):
        if line.kind == "forgiven":
            given_up[line.usage_month] -= line.amount_cents
        if line.kind in CREDITS | BESIDE_USAGE | FEES | {"unbilled", "moved"}:
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
            position.peak_cents = max(position.peak_cents, position.charged_cents)
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


def rounded_cents(cents: Decimal) -> int:
    """Round half up, away from zero."""
    return int(cents.quantize(Decimal(1), ROUND_HALF_UP))


def money(bill: Bill, cents: int) -> str:
    """Write an amount of a bill."""
    return format_money(cents, bill.currency)
