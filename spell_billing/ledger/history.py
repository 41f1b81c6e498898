"""What other months left for a month's drafts: credits, and what bills hold of usage that came late."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.drafting import Credit
from spell_billing.core.fees import FeesCharged
from spell_billing.core.grants import Grant
from spell_billing.core.late import Billed, BillOf, Usage, Worth, coupon_shares, worth
from spell_billing.core.lines import (
    ADJUSTMENT,
    BESIDE_USAGE,
    BROUGHT,
    FEES,
    FORGIVEN,
    LATE_KINDS,
    LATE_USAGE,
    MOVED,
    RECORDED,
    UNBILLED,
    Line,
    load_lines,
)
from spell_billing.core.month import Month
from spell_billing.core.outcomes import CLOSED, INVOICED, State
from spell_billing.core.pricing import USUAL_RATING, discount_on, load_rating
from spell_billing.ledger.credits import read_credits
from spell_billing.ledger.fees import read_fees
from spell_billing.ledger.given_back import Invoice, add_what_went_back, read_answers
from spell_billing.ledger.grants import read_grants
from spell_billing.ledger.moves import Heirs, read_heirs
from spell_billing.ledger.queries import (
    has_line_of,
    latest_bills,
    left_something,
    of_drafted_months,
    started_months,
)
from spell_billing.ledger.schema import invoices


@dataclass(slots=True)
class History:
    """Credits, grants and fees by user, what bills hold of what may be left open, and who took over whose."""

    credits: dict[str, list[Credit]] = field(default_factory=dict)
    billed: dict[BillOf, Billed] = field(default_factory=dict)
    heirs: Heirs = field(default_factory=lambda: Heirs({}))
    fees: dict[str, FeesCharged] = field(default_factory=dict)
    grants: dict[str, list[Grant]] = field(default_factory=dict)


def read_history(
    connection: Connection, month: Month, late: Collection[BillOf], only: Collection[str] | None = None
) -> History:
    """Read what the drafts of `month` must know of all other bills.

    That is the credits and grants, and what bills hold for `late` (bills whose usage has changed since) and
    for whatever earlier bills left open. Where `only` some users are drafted, the month's own bills of all
    others count.
    """
    heirs = read_heirs(connection)
    wanted = set(late) | _left_short(connection, month) | _left_open(connection, month)
    corrected = (each for each in read_answers(connection) if each.corrected_cents)
    wanted |= {(each.user_id, each.usage_month) for each in corrected if each.usage_month < str(month)}
    if heirs.heirs:
        wanted = {(user, of) for each, of in wanted for user in heirs.together_with(each)}
    return History(
        read_credits(connection, month, heirs, only=only),
        read_billed(connection, month, wanted, only) if wanted else {},
        heirs,
        read_fees(connection, month, only),
        read_grants(connection, month, heirs, only=only),
    )


def pinned_versions(connection: Connection, *, since: Month, before: Month) -> list[tuple[Month, str]]:
    """Return the months in a range whose billing has started, with their frozen usage versions."""
    started = ((Month.parse(each.month), each) for each in started_months(connection))
    return [(month, each.usage_version) for month, each in started if since <= month < before]


def _left_short(connection: Connection, month: Month) -> set[BillOf]:
    """Return earlier bills that an adopted invoice left short."""
    short = sa.or_(invoices.c.unbilled_calls != 0, invoices.c.unbilled_usage_cents != Decimal(0))
    rows = connection.execute(
        sa.select(invoices.c.user_id, invoices.c.month)
        .where(left_something(connection), short)
        .where(invoices.c.month < str(month), invoices.c.state != State.VOID.value)
    )
    return {(user, of) for user, of in rows}


def _left_open(connection: Connection, month: Month) -> set[BillOf]:
    """Return what lines left for another bill, and what may be off since bills became worth something else.

    An invoice of which usage went may be given up since, or one that was given up may be paid.
    """
    closed = sa.select(invoices.c.user_id).where(
        of_drafted_months(), invoices.c.state.in_([state.value for state in CLOSED])
    )
    users = frozenset(connection.scalars(closed))
    went = invoices.c.lines.contains('"usage_cents":"-')
    rows = connection.execute(
        sa.select(invoices.c.user_id, invoices.c.lines).where(
            left_something(connection),
            invoices.c.late_lines > 0,
            sa.or_(has_line_of(UNBILLED), has_line_of(ADJUSTMENT), went),
        )
    )
    return {
        (user, line.usage_month)
        for user, lines in rows
        for line in load_lines(lines)
        if line.usage_month <= str(month)
        if line.kind == UNBILLED or (line.kind in LATE_KINDS and _may_be_off(line, is_closed=user in users))
    }


def _may_be_off(line: Line, *, is_closed: bool) -> bool:
    """Return whether a late line depends on what a bill was worth: to ask of all whose usage went is slow."""
    usage_cents = Decimal(line.usage_cents)
    if usage_cents < 0:
        return is_closed or line.amount_cents - usage_cents >= 1
    return usage_cents == 0 and line.amount_cents != 0


def read_billed(
    connection: Connection,
    month: Month,
    wanted: Collection[BillOf],
    only: Collection[str] | None = None,
) -> dict[BillOf, Billed]:
    """Return what all bills but those of `month` hold of usage, by user and month of the usage.

    Where `only` some users are drafted, the month's bills of all others count.
    """
    found: defaultdict[BillOf, Billed] = defaultdict(Billed)
    standing: dict[BillOf, Invoice] = {}
    pinned = {each.month for each in started_months(connection)}
    for row in latest_bills(connection, {user for user, _ in wanted}):
        if row.month != str(month) or (only is not None and row.user_id not in only):
            _add(found, standing, row, is_pinned=row.month in pinned)
    asked = {bill: found[bill] for bill in wanted if bill in found}
    add_what_went_back(connection, asked, standing)
    return asked


def _add(found: dict[BillOf, Billed], standing: dict[BillOf, Invoice], row: Any, *, is_pinned: bool) -> None:
    """Add a bill to what is billed of its own month, and of those that its lines are about."""
    user_id = row.user_id
    value = worth(row.state, row.reason)
    lines = load_lines(row.lines)
    own = found[user_id, row.month]
    usage = Usage(row.calls, row.usage_cents)
    own.known += usage + Usage(row.unbilled_calls, row.unbilled_usage_cents)
    own.is_open = value is Worth.OPEN
    held = {row.month: usage}
    # What is brought forward is among the credits applied: both are no part of what usage charges.
    beside_cents = sum(line.amount_cents for line in lines if line.kind in (BESIDE_USAGE | FEES) - {BROUGHT})
    amounts = {row.month: row.total_cents - row.late_cents + row.credit_applied_cents - beside_cents}
    forgiven: defaultdict[str, int] = defaultdict(int)
    for line in (each for each in lines if each.kind == FORGIVEN):
        forgiven[line.usage_month] -= line.amount_cents
    # Differences are recorded anew with a month whose billing has not started.
    for line in (each for each in lines if is_pinned or each.kind == ADJUSTMENT):
        about = found[user_id, line.usage_month]
        usage = Usage(line.calls, Decimal(line.usage_cents))
        if line.kind in RECORDED:
            about.known += usage
        if line.kind == MOVED:
            about.moved += usage
        if line.kind in LATE_KINDS:
            held[line.usage_month] = held.get(line.usage_month, Usage()) + usage
            amounts[line.usage_month] = amounts.get(line.usage_month, 0) + line.amount_cents
    if not is_pinned:
        _add_waiting(found, row, lines)
    if row.state in INVOICED:
        charging = {of for of in held if amounts[of] > 0} if value is Worth.CHARGED else set[str]()
        standing[user_id, row.month] = Invoice.of(row, lines, charging)
    coupons = coupon_shares(row.discount_cents, value, amounts, lines)
    for of, usage in held.items():
        about = found[user_id, of]
        about.coupon_cents += coupons.get(of, 0)
        _add_rating(about, row, of)
        forgiven_cents = min(forgiven[of], max(0, amounts[of]))
        about.forgiven_cents += forgiven_cents
        _count(about, usage, amounts[of] - forgiven_cents, value, row.state, is_own=of == row.month)
    for of in {row.month, *(line.usage_month for line in lines)}:
        found[user_id, of].note_lowest()


def _add_rating(about: Billed, row: Any, of: str) -> None:
    if about.currency is None:
        # What came late for a month without a bill of its own goes on as it was first rated.
        about.currency = row.currency
        if row.stripe_customer_id or row.plan_id:
            rating = load_rating(row.rating, row.included_cents)
            about.rating = rating if of == row.month else rating.of_usage_alone


def _add_waiting(found: dict[BillOf, Billed], row: Any, lines: Sequence[Line]) -> None:
    """Add late usage on a bill of a month of which nothing was sent."""
    for line in (each for each in lines if each.kind == LATE_USAGE):
        about = found[row.user_id, line.usage_month]
        # Each such month records the same differences: the first one counts.
        if about.waits_for in {None, row.month}:
            about.waits_for = row.month
            about.waiting += Usage(line.calls, Decimal(line.usage_cents))


def _count(about: Billed, usage: Usage, cents: int, value: Worth, state: str, *, is_own: bool) -> None:
    if value is Worth.OPEN:
        about.waits = about.waits or not is_own
        if not is_own:
            about.waiting += usage
        return
    if value is Worth.WRITTEN_OFF and is_own:
        # What a discount takes off a fee goes with the fee: see there.
        rating = about.rating or USUAL_RATING
        about.fee_discount_cents = discount_on(rating.fee_cents, rating)
        cents += about.fee_discount_cents
    if value is Worth.WRITTEN_OFF and cents < 0 and state == State.VOID:
        # Like a credit on it, what a voided invoice gave back is left for a later one.
        return
    about.billed += usage
    if value is Worth.CHARGED:
        about.charged_cents += cents
        about.peak_cents = max(about.peak_cents, about.charged_cents)
    elif cents > 0:
        about.give_up(cents)
    else:
        about.withheld_cents -= cents
