"""Derives once more what users pay for a month's fees in all, in advance, with its own bill and corrected.

Apart from drafting and from the ledger's own reading of its history, as all of `rederive.py`.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.errors import altered_row
from spell_billing.core.money import format_money
from spell_billing.core.month import Month
from spell_billing.invoicing.findings import Finding, Kind
from spell_billing.invoicing.rederive_late import corrections, is_due_next
from spell_billing.invoicing.rederive_plans import Terms, frozen_terms, in_words, taken_off, terms_of
from spell_billing.invoicing.rederive_positions import CREDITS, FEES, STANDING, Line, read_lines
from spell_billing.ledger.queries import left_something
from spell_billing.ledger.rows import Bill
from spell_billing.ledger.schema import invoices
from spell_billing.usage.frozen import FrozenUsage

_OF_USAGE = frozenset({"usage", "included", "usage_discount", "minimum"})
_CLOSED_TO_FEES = ("held", "settled")
_NO_CHARGE = frozenset({"remainder", "brought_forward", "changed_at_stripe", "forgiven", "grant"}) | CREDITS


@dataclass(slots=True)
class _Paid:
    """What bills charge for a month's fees; of what they gave up, `gross` is before the fees' discounts.

    `beside_cents` is the month's own usage, less what its plan takes off, up to the minimum.
    """

    cents: int = 0
    gross_cents: int = 0
    net_cents: int = 0
    kept_back_cents: int = 0
    most_cents: int = 0
    coupon_cents: int = 0
    beside_cents: int = 0
    is_given_up: bool = False
    is_held: bool = False
    currencies: set[str] = field(default_factory=set)
    months: set[str] = field(default_factory=set)

    def bounds(self, terms: Terms, corrected_cents: int, given_up_cents: int) -> tuple[int, int]:
        """Return the least and the most that may have been charged in all, less what was corrected."""
        nobody_pays = min(self.gross_cents - given_up_cents, terms.fee)
        base = terms.fee if self.is_given_up else terms.fee + self.beside_cents
        reduced = taken_off(terms, base)
        lost = reduced - taken_off(terms, base - nobody_pays)
        due = terms.fee - (reduced if self.is_given_up else 0)
        went = self.most_cents - corrected_cents - max(0, due)
        if self.coupon_cents and went > 0:
            # What a coupon took off was paid by nobody.
            due += (2 * self.coupon_cents * went + self.most_cents) // (2 * self.most_cents)
        return due - nobody_pays + lost - self.net_cents, due + self.kept_back_cents


def plan_findings(
    connection: Connection, month: Month, frozen: FrozenUsage, latest: Mapping[str, Bill]
) -> Iterator[Finding]:
    """Check that bills are rated by the plans that were frozen, and charge each fee of the month once."""
    plans = frozen.manifest.plans
    terms, unknown = ({}, set[str]()) if plans is None else frozen_terms(month, frozen.path(plans))
    for user_id, bill in sorted(latest.items()):
        found = terms_of(bill.included_cents, bill.rating)
        expected = terms.get(user_id)
        if expected is None:
            # A plan that the account got since may count; without one nothing does.
            expected = found if bill.plan_id else Terms()
        if expected.plan_id and bill.stripe_customer_id:
            found = msgspec.structs.replace(found, plan_id=bill.plan_id)
        else:
            expected = msgspec.structs.replace(expected, plan_id=None)
        if found != expected:
            yield Finding.of(Kind.PLAN_DIFFERS, bill, in_words(expected, bill), in_words(found, bill))
    if plans is None:
        return
    # A plan that did not exist then is charged as it was when it did.
    yield from _fee_findings(connection, month, terms, latest, unknown)


def _fee_findings(
    connection: Connection,
    month: Month,
    terms: Mapping[str, Terms],
    latest: Mapping[str, Bill],
    unknown: set[str],
) -> Iterator[Finding]:
    found = _paid(connection, month)
    corrected, given_up = corrections(connection)
    with_fees = {user for user, each in terms.items() if each.fee}
    for user_id in sorted((found.keys() | with_fees) - unknown):
        paid, key = found[user_id], (user_id, f"fees of {month}")
        least, most = paid.bounds(terms.get(user_id, Terms()), corrected[key], given_up[key])
        cents = paid.cents - corrected[key]
        if least <= cents <= most and len(paid.currencies) <= 1:
            continue
        if paid.is_held or is_due_next(connection, user_id, {*paid.months, str(month)}):
            continue
        owner = latest.get(user_id)
        currency = owner.currency if owner else min(paid.currencies, default="usd")
        due = format_money(least if cents < least else min(cents, most), currency)
        charged = f"{format_money(cents, currency)} charged in all"
        if len(paid.currencies) > 1:
            charged = f"amounts in {' and '.join(sorted(paid.currencies))}"
        invoice_id = owner.stripe_invoice_id if owner else None
        yield Finding(Kind.PLAN_DIFFERS, user_id, invoice_id, f"{due} of fees for {month}", charged)


def _paid(connection: Connection, month: Month) -> defaultdict[str, _Paid]:
    """Sum by user what latest bills charge for the month's fees: in advance, its own, and corrections."""
    wanted = ("user_id", "month", "generation", "state", "reason", "currency", "discount_cents", "lines")
    columns = [invoices.c[name] for name in wanted]
    near = sa.select(*columns).where(
        invoices.c.month.in_([str(month), str(month.previous())]),
        sa.or_(
            *(invoices.c.plan_cents != 0, invoices.c.rating.is_not(None), invoices.c.late_lines > 0),
            invoices.c.state.in_(_CLOSED_TO_FEES),
        ),
    )
    later = sa.select(*columns).where(
        left_something(connection),
        invoices.c.late_lines > 0,
        invoices.c.month > str(month),
        invoices.c.lines.contains('"kind":"fee_note"'),
    )
    rows = [row for query in (near, later) for row in connection.execute(query)]
    rows.sort(key=lambda row: (row.month, row.generation))
    found: defaultdict[str, _Paid] = defaultdict(_Paid)
    for row in {(row.month, row.user_id): row for row in rows}.values():
        _take(found, row, str(month))
    return found


def _take(found: defaultdict[str, _Paid], row: Any, month: str) -> None:
    lines = _lines_of(row)
    fees = [each for each in lines if each.kind in FEES and each.usage_month == month]
    if not fees and row.month != month:
        return
    paid, is_own = found[row.user_id], row.month == month
    is_given_up = row.state == "uncollectible" or (
        row.state in {"void", "settled"} and row.reason == "written_off"
    )
    if is_own:
        paid.is_given_up = is_given_up
        paid.is_held = row.state in _CLOSED_TO_FEES and not paid.currencies <= {row.currency}
        paid.beside_cents = sum(each.amount_cents for each in lines if each.kind in _OF_USAGE)
    cents = sum(each.amount_cents for each in fees)
    if not fees or (is_given_up and row.state == "void" and cents < 0):
        return
    if cents:
        paid.currencies.add(row.currency)
    paid.months.add(row.month)
    if is_given_up and cents < 0:
        paid.kept_back_cents -= cents
    elif is_given_up:
        _give_up(paid, cents, before_discounts=row.month <= month)
    else:
        forgiven = max(0, min(cents, _forgiven(lines, month)))
        _give_up(paid, forgiven, before_discounts=row.month < month)
        paid.cents += cents - forgiven
        paid.most_cents = max(paid.most_cents, paid.cents)
        if row.state in STANDING or row.state == "settled":
            paid.coupon_cents += _coupon_of(row.discount_cents or 0, lines, month, cents)


def _lines_of(row: Any) -> tuple[Line, ...]:
    """Return a bill's lines; IntegrityError where they were altered so that they cannot be read."""
    try:
        return read_lines(row.lines)
    except msgspec.DecodeError:
        raise altered_row(f"The bill of user {row.user_id} for {row.month}", invoices.name) from None


def _give_up(paid: _Paid, cents: int, *, before_discounts: bool) -> None:
    if before_discounts:
        paid.gross_cents += cents
    else:
        paid.net_cents += cents


def _forgiven(lines: Sequence[Line], month: str) -> int:
    """Return what was forgiven of the month on a bill too small to be charged, beyond its usage."""
    forgiven = -sum(
        each.amount_cents for each in lines if (each.kind, each.usage_month) == ("forgiven", month)
    )
    if not forgiven:
        return 0
    not_usage = FEES | _NO_CHARGE
    usage = sum(
        each.amount_cents for each in lines if each.usage_month == month and each.kind not in not_usage
    )
    return forgiven - min(forgiven, max(0, usage))


def _coupon_of(discount_cents: int, lines: Sequence[Line], month: str, cents: int) -> int:
    """Return what a coupon took off the month's fees: it is taken off all that is charged, alike."""
    if not discount_cents:
        return 0
    sums: Counter[str] = Counter()
    brought = 0
    for each in lines:
        if each.kind == "brought_forward":
            brought += each.amount_cents
        elif each.kind not in _NO_CHARGE and not each.without_coupon:
            sums[each.usage_month] += each.amount_cents
    part = max(0, min(cents, sums[month]))
    in_all = brought + sum((+sums).values())
    return discount_cents * part // in_all if in_all else 0
