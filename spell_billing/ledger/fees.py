"""Plans' fees that bills of a month and of its neighbours charge already."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.fees import FeeCorrection, FeesCharged, FeesOf, fees_key, fees_month
from spell_billing.core.late import BillOf, Worth, worth
from spell_billing.core.lines import (
    BESIDE_USAGE,
    BROUGHT,
    CREDIT,
    FEE,
    FEE_IN_ADVANCE,
    FEE_NOTE,
    FEES,
    FORGIVEN,
    Line,
    load_lines,
)
from spell_billing.core.month import Month
from spell_billing.core.outcomes import CLOSED, State
from spell_billing.core.pricing import load_rating
from spell_billing.ledger.given_back import Invoice, add_what_went_back, read_answers, with_money_back
from spell_billing.ledger.queries import (
    TELLING,
    has_line_of,
    is_replaced,
    latest_bills,
    left_something,
    lines_told,
    of_drafted_months,
    read_months,
)
from spell_billing.ledger.schema import audit, invoices

HAS_FEES = sa.or_(invoices.c.plan_cents != 0, invoices.c.rating.is_not(None))
"""The condition for bills that may charge fees, or give them back."""


def read_fees(connection: Connection, month: Month, only: Collection[str] | None) -> dict[str, FeesCharged]:
    """Return the fees that the month's drafts must reckon with, by user; of `only` those who are drafted.

    Once the next month is billed, its bills have counted with what this one's charged in advance: a bill that
    is drafted again, alone or with the whole month, charges the same.
    """
    following = next((each for each in read_months(connection) if each.month == str(month.next())), None)
    noted = _noted(connection)
    held = _in_advance(connection, month, only)
    # Where a later bill corrects fees of a month that is drafted again, all bills count.
    wanted = {(user, of) for user, of in noted if of == str(month)}
    wanted |= {each for each in noted | _closed(connection) | _answered(connection) if each[1] < str(month)}
    position = fees_held(connection, {each for each in wanted if only is None or each[0] in only}, month)
    held |= {user: fees for (user, of), fees in position.held.items() if of == str(month)}
    earlier: defaultdict[str, list[FeeCorrection]] = defaultdict(list)
    for each in _corrections(connection, position, month):
        earlier[each[0]].append(each[1])
    after = _sums(connection, month.next(), FEE, only) if following else {}
    kept: dict[str, int] = {}
    if following is not None and following.billing_started_at is not None:
        drafted = connection.scalars(sa.select(invoices.c.user_id).where(invoices.c.month == str(month)))
        kept = dict.fromkeys(drafted if only is None else only, 0)
        kept |= _sums(connection, month, FEE_IN_ADVANCE, only)
    return {
        user: FeesCharged(
            held.get(user) or FeesOf(), after.get(user, 0), kept.get(user), tuple(earlier.get(user, ()))
        )
        for user in held.keys() | after.keys() | kept.keys() | earlier.keys()
    }


@dataclass(slots=True)
class Position:
    """What all bills hold of fees, by user and month of the fees; and these months' own bills."""

    held: defaultdict[BillOf, FeesOf] = field(default_factory=lambda: defaultdict(FeesOf))
    own: dict[BillOf, Any] = field(default_factory=dict)
    standing: dict[BillOf, Invoice] = field(default_factory=dict)

    def add(self, row: Any) -> None:
        """Add a bill, in the order of the months."""
        self.own[row.user_id, row.month] = row
        lines = load_lines(row.lines)
        value = worth(row.state, row.reason)
        discount_cents = (row.discount_cents or 0) if value is Worth.CHARGED else 0
        charging = set()
        for of, cents, small_cents, coupon_cents in _fees_on(lines, discount_cents):
            held = self.held[row.user_id, of]
            # Discounts on fees of this month and earlier ones, if there are any, are on the bill or in the
            # amount: not those of the bill's own month, where it is given up.
            if value is not Worth.WRITTEN_OFF:
                held.charged_cents += cents - small_cents
                held.peak_cents = max(held.peak_cents, held.charged_cents)
                held.coupon_cents += coupon_cents
                held.forgive(small_cents, is_net=of <= row.month)
            elif cents > 0:
                held.forgive(cents, is_net=of < row.month)
            elif row.state != State.VOID:
                held.withheld_cents -= cents
            else:
                # Like a credit on it, what a voided invoice gave back is left for a later one.
                continue
            held.currencies.add(row.currency)
            if cents > 0 and value is Worth.CHARGED:
                charging.add(fees_key(of))
        if charging and row.stripe_invoice_id:
            self.standing[row.user_id, row.month] = Invoice.of(row, lines, charging)

    def add_what_went_back(self, connection: Connection) -> None:
        """Add what was given back at Stripe, and what people said of it."""
        found = {(user, fees_key(of)): held for (user, of), held in self.held.items()}
        add_what_went_back(connection, found, self.standing)


def _fees_on(lines: Sequence[Line], discount_cents: int) -> Iterator[tuple[str, int, int, int]]:
    """Return a bill's fees by their month, in minor units: all of them, forgiven as too small, and couponed.

    `discount_cents` is what a coupon at Stripe took off the bill: off all that is charged alike.
    """
    fees, others, forgiven = Counter[str](), Counter[str](), Counter[str]()
    for line in lines:
        if line.kind in FEES:
            fees[line.usage_month] += line.amount_cents
        elif line.kind == FORGIVEN:
            forgiven[line.usage_month] -= line.amount_cents
        elif line.kind not in BESIDE_USAGE and line.kind != CREDIT and not line.without_coupon:
            others[line.usage_month] += line.amount_cents
    charged = {of: cents for of in fees | others if (cents := fees[of] + others[of]) > 0}
    in_all_cents = sum(charged.values())
    in_all_cents += sum(line.amount_cents for line in lines if line.kind == BROUGHT)
    for of, cents in fees.items():
        small_cents = forgiven[of] - min(forgiven[of], max(0, others[of]))
        part_cents = max(0, min(cents, charged.get(of, 0)))
        coupon_cents = discount_cents * part_cents // in_all_cents if in_all_cents else 0
        yield of, cents, max(0, min(small_cents, cents)), coupon_cents


def fees_held(connection: Connection, wanted: Collection[BillOf], month: Month) -> Position:
    """Return what all bills but those of `month` hold of fees, by user and month of the fees."""
    position = Position()
    for row in latest_bills(connection, {user for user, _ in wanted}):
        if row.month != str(month):
            position.add(row)
    position.add_what_went_back(connection)
    for bill in position.held.keys() - set(wanted):
        del position.held[bill]
    return position


def _in_advance(connection: Connection, month: Month, only: Collection[str] | None) -> dict[str, FeesOf]:
    """Return what the bills of the month before hold of the month's fees, by user."""
    position = Position()
    before = str(month.previous())
    for row in connection.execute(_with_line(connection, FEE_IN_ADVANCE, before, *TELLING)):
        if only is None or row.user_id in only:
            position.add(row)
    # To ask about each invoice of a large month takes seconds: few gave anything back.
    back = with_money_back(connection, before)
    answered = {(each.user_id, each.month) for each in read_answers(connection)}
    position.standing = {
        bill: each
        for bill, each in position.standing.items()
        if each.invoice_id in back or each.taken_off_cents or bill in answered
    }
    position.add_what_went_back(connection)
    return {user: held for (user, of), held in position.held.items() if of == str(month)}


def _corrections(
    connection: Connection, position: Position, month: Month
) -> Iterator[tuple[str, FeeCorrection]]:
    """Return what is due for fees of months before `month`, by user."""
    for (user, of), held in sorted(position.held.items()):
        own = position.own.get((user, of))
        if own is None or of >= str(month):
            continue
        value = worth(own.state, own.reason)
        # An open bill takes up by itself what its fees come to.
        others = held.currencies - {own.currency}
        if value is Worth.OPEN or others or _is_adopted(connection, own):
            continue
        rating = load_rating(own.rating, own.included_cents)
        is_given_up = value is Worth.WRITTEN_OFF
        cents = held.due_cents(rating, own.usage_cents, bill_is_given_up=is_given_up)
        if cents:
            back_cents = sum(held.back.values())
            yield user, FeeCorrection(Month.parse(of), cents, frozenset(held.currencies), back_cents)


def _is_adopted(connection: Connection, bill: Any) -> bool:
    """Return whether the bill's content is that of an invoice found at Stripe, which no plan explains."""
    found = sa.select(audit.c.id).where(
        audit.c.month == bill.month,
        audit.c.user_id == bill.user_id,
        audit.c.generation == bill.generation,
        audit.c.action == "adopted",
    )
    return connection.scalar(found.limit(1)) is not None


def _noted(connection: Connection) -> set[BillOf]:
    """Return fees that were given up before their month was drafted, or corrected after."""
    found = lines_told(connection, {FEE_NOTE}, [invoices.c.user_id], ~is_replaced())
    return {(row.user_id, line.usage_month) for row, line in found}


def _closed(connection: Connection) -> set[BillOf]:
    """Return fees on bills that are given up, or may be: of their own month, and in advance."""
    rows = connection.execute(
        sa.select(invoices.c.user_id, invoices.c.month).where(
            of_drafted_months(), invoices.c.state.in_([each.value for each in CLOSED]), HAS_FEES
        )
    )
    return {(user, of) for user, month in rows for of in (month, str(Month.parse(month).next()))}


def _answered(connection: Connection) -> set[BillOf]:
    """Return fees that money was given back for, as people said."""
    answers = read_answers(connection)
    return {(each.user_id, of) for each in answers if (of := fees_month(each.usage_month))}


def _with_line(
    connection: Connection, kind: str, month: str, *columns: sa.ColumnElement[Any]
) -> sa.Select[Any]:
    query = sa.select(*columns).where(invoices.c.month == month, ~is_replaced(), has_line_of(kind))
    if kind == FEE_IN_ADVANCE:
        query = query.where(left_something(connection), invoices.c.late_lines > 0)
    return query


def _sums(connection: Connection, month: Month, kind: str, only: Collection[str] | None) -> dict[str, int]:
    """Sum the lines of a kind on the month's latest bills, for its own fees or in advance, by user."""
    of = str(month.next() if kind == FEE_IN_ADVANCE else month)
    found: Counter[str] = Counter()
    query = _with_line(connection, kind, str(month), invoices.c.user_id, invoices.c.lines)
    for user_id, lines in connection.execute(query):
        if only is None or user_id in only:
            lines_of = (line for line in load_lines(lines) if line.kind == kind and line.usage_month == of)
            found[user_id] += sum(line.amount_cents for line in lines_of)
    return found
