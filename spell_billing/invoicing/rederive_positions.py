"""Derives once more what all bills together hold of a user's usage of a month, and charge for it.

Apart from drafting and from the ledger's own reading of its history, as all of `rederive.py`.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.errors import IntegrityError, altered_row
from spell_billing.core.money import exact_sum, format_money
from spell_billing.core.terms import load_terms
from spell_billing.invoicing.rederive_plans import charges, fee_discount, terms_of, usage_discount_alone
from spell_billing.ledger.column_types import amount_of
from spell_billing.ledger.queries import of_drafted_months
from spell_billing.ledger.rows import Bill
from spell_billing.ledger.schema import invoices

_USERS_A_QUERY = 500
LATE = frozenset({"late_usage", "adjustment"})
EVIDENCE = frozenset({"late_usage", "unbilled", "moved"})
BESIDE_USAGE = frozenset({"remainder", "brought_forward", "changed_at_stripe", "forgiven", "grant"})
FEES = frozenset({"fee", "fee_in_advance"})
OF_PLANS = FEES | {"usage_discount", "minimum", "discount"}
TOLD = LATE | EVIDENCE | BESIDE_USAGE | {"fee_in_advance", "fee_note"}
CREDITS = frozenset({"credit", "brought_forward"})
STANDING = frozenset({"finalized", "paid", "payment_failed", "skipped"})
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
    without_coupon: bool | msgspec.UnsetType = msgspec.UNSET


read_lines = msgspec.json.Decoder(tuple[Line, ...]).decode
KINDS = OF_PLANS | TOLD | CREDITS | {"usage", "included"}


def require_readable(row: Any) -> tuple[Line, ...]:
    """Return the lines of a bill, or of its row.

    Raises:
        IntegrityError: when its lines, rating or terms were altered so that nothing can be read from them.
    """
    try:
        lines = read_lines(row.lines)
        for line in lines:
            if line.usage_cents != "0":
                amount_of(line.usage_cents)
        terms_of(row.included_cents, row.rating)
        load_terms(row.terms)
    except (ValueError, TypeError, AttributeError, ArithmeticError, msgspec.DecodeError, IntegrityError):
        named = f"The bill of user {row.user_id} for {row.month}"
        raise altered_row(named, "ledger_invoices") from None
    return lines


@dataclass(slots=True)
class Position:
    """All that bills hold of one user's usage of a month."""

    usage_cents: Decimal = Decimal(0)
    charged_cents: int = 0
    forgiven_cents: int = 0
    withheld_cents: int = 0
    fee_discount_cents: int = 0
    known_cents: Decimal = Decimal(0)
    lowest_cents: int = 0
    rating: tuple[int, str | None] | None = None
    waits: bool = False
    holders: set[str] = field(default_factory=set)
    peak_cents: int = 0
    coupon_cents: int = 0
    fees_cents: int = 0
    most_fees_cents: int = 0
    is_drafted: bool = False

    @property
    def target_cents(self) -> int:
        """What the usage that bills hold comes to."""
        return self.rated_cents(self.usage_cents) + self.fee_discount_cents

    def coupon_of_gone_cents(self, corrected_cents: int) -> int:
        """Return the share of coupons that was taken off usage that went, and that nobody corrected."""
        gone_cents = self.peak_cents - corrected_cents - max(0, self.target_cents)
        if not self.coupon_cents or gone_cents <= 0:
            return 0
        return rounded_cents(Decimal(self.coupon_cents * gone_cents) / self.peak_cents)

    def gone_fees_cents(self, corrected_cents: int) -> int:
        """Return what was charged beyond the month's fees, and nobody corrected."""
        if not self.is_drafted:
            return 0
        due_cents = terms_of(*self.rating).fee if self.rating else 0
        return max(0, self.most_fees_cents - corrected_cents - due_cents)

    def rated_cents(self, usage_cents: Decimal) -> int:
        """Return what usage comes to by the rating of its month."""
        rounded = rounded_cents(usage_cents)
        return rounded + sum(charges(rounded, *(self.rating or (0, None))).values())


def positions_of(
    connection: Connection, users: Sequence[str]
) -> Iterator[defaultdict[tuple[str, str], Position]]:
    """Return positions by user and month, some users at a time."""
    for first in range(0, len(users), _USERS_A_QUERY):
        positions: defaultdict[tuple[str, str], Position] = defaultdict(Position)
        for row in latest_bills(connection, users[first : first + _USERS_A_QUERY]):
            _take(positions, row)
        yield positions


def _take(positions: defaultdict[tuple[str, str], Position], row: Any) -> None:
    """Add what one bill holds, of its own month and of others, to the positions."""
    own: dict[str, tuple[Decimal, int]] = {}
    given_up: defaultdict[str, int] = defaultdict(int)
    without_coupon: defaultdict[str, int] = defaultdict(int)
    lines = require_readable(row)
    for line in lines:
        if line.kind == "forgiven":
            given_up[line.usage_month] -= line.amount_cents
        if line.kind in CREDITS | BESIDE_USAGE | FEES | {"unbilled", "moved", "fee_note"}:
            continue
        without_coupon[line.usage_month] += line.amount_cents if line.without_coupon else 0
        usage_cents, cents = own.get(line.usage_month, (Decimal(0), 0))
        own[line.usage_month] = (
            exact_sum(usage_cents, Decimal(line.usage_cents)),
            cents + line.amount_cents,
        )
    own.setdefault(row.month, (Decimal(0), 0))
    _take_fees(positions, row, lines)
    fees = [line.amount_cents for line in lines if line.kind in FEES | {"brought_forward"}]
    reduced = {of: cents - without_coupon[of] for of, (_, cents) in own.items()}
    charged_cents = sum(cents for cents in (*fees, *reduced.values()) if cents > 0)
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
        else:
            is_own = usage_month == row.month
            _count(position, row, usage_cents, cents, given_up=given_up[usage_month], is_own=is_own)
            if reduced[usage_month] > 0 and _is_charged(row):
                position.coupon_cents += (row.discount_cents or 0) * reduced[usage_month] // charged_cents
    _learn(positions, row, lines)


def _take_fees(positions: defaultdict[tuple[str, str], Position], row: Any, lines: Iterable[Line]) -> None:
    """Add what the bill charges for fees, to tell what went of them."""
    positions[row.user_id, row.month].is_drafted = True
    for line in lines if _is_charged(row) else ():
        if line.kind in FEES:
            position = positions[row.user_id, line.usage_month]
            position.fees_cents += line.amount_cents
            position.most_fees_cents = max(position.most_fees_cents, position.fees_cents)


def _count(
    position: Position, row: Any, usage_cents: Decimal, cents: int, *, given_up: int, is_own: bool
) -> None:
    """Add what a bill that was sent, closed or skipped charges."""
    is_charged = _is_charged(row)
    if is_own and not is_charged:
        # The discount on a fee goes with the fee, wherever that is charged.
        position.fee_discount_cents = fee_discount(position.rating[1] if position.rating else None)
        cents += position.fee_discount_cents
    if row.state == "void" and cents < 0:
        return
    position.holders.add(row.month)
    position.usage_cents = exact_sum(position.usage_cents, usage_cents)
    # Of a small amount that was given up, nothing was charged.
    forgiven_cents = max(0, min(given_up, cents))
    position.forgiven_cents += forgiven_cents
    if is_charged:
        position.charged_cents += cents - forgiven_cents
        position.peak_cents = max(position.peak_cents, position.charged_cents)
    elif cents > 0:
        position.forgiven_cents += cents
        # What it charged of credits that nothing stood behind any more is given up with it. That it did so
        # shows in what all bills charged together, given up or not: more than the usage comes to.
        ever_cents = position.charged_cents + position.forgiven_cents - position.withheld_cents
        beyond = ever_cents > position.target_cents + position.coupon_of_gone_cents(0)
        without_ground = position.lowest_cents - position.charged_cents
        position.lowest_cents -= min(cents, without_ground) if beyond and without_ground > 0 else 0
    else:
        position.withheld_cents -= cents


def _is_charged(row: Any) -> bool:
    return row.state in STANDING or (row.state == "settled" and row.reason == "billed_by_hand")


def _learn(positions: defaultdict[tuple[str, str], Position], row: Any, lines: Iterable[Line]) -> None:
    """Note what was known of each month's usage once the bill was made, and the least that it came to."""
    known = defaultdict(Decimal, {row.month: row.unbilled_usage_cents})
    for line in lines:
        if line.kind in {"usage", "late_usage", "unbilled"}:
            known[line.usage_month] = exact_sum(known[line.usage_month], Decimal(line.usage_cents))
    for usage_month, usage_cents in known.items():
        position = positions[row.user_id, usage_month]
        position.known_cents = exact_sum(position.known_cents, usage_cents)
        rated_cents = position.rated_cents(position.known_cents) + position.fee_discount_cents
        position.lowest_cents = min(position.lowest_cents, rated_cents)


def latest_bills(connection: Connection, users: Sequence[str]) -> Iterable[Any]:
    """Return the rows of users' latest bills in all months, in the order of the months."""
    rows = connection.execute(
        sa.select(invoices)
        .where(of_drafted_months(), invoices.c.user_id.in_(users))
        .order_by(invoices.c.month, invoices.c.generation)
    ).all()
    return {(row.user_id, row.month): row for row in rows}.values()


def rounded_cents(cents: Decimal) -> int:
    """Round half up, away from zero."""
    return int(cents.to_integral_value(ROUND_HALF_UP))


def money(bill: Bill, cents: int) -> str:
    """Write an amount of a bill."""
    return format_money(cents, bill.currency)
