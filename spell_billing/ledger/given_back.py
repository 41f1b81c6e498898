"""What was given back of invoices at Stripe, and whether it was for rows that went, as people said."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.errors import altered_row
from spell_billing.core.late import BillOf, Held
from spell_billing.core.lines import CHANGED, Line
from spell_billing.core.money import share_of
from spell_billing.core.outcomes import State
from spell_billing.ledger.credit_notes import MONEY_BACK, known_back
from spell_billing.ledger.money_tables import charges, credit_notes
from spell_billing.ledger.reviews import DecisionKind
from spell_billing.ledger.schema import audit, decisions

_INVOICES_A_QUERY = 500
_CONTENT = re.compile(r"([^:]+):(-?[0-9]+):(-?[0-9]+):([^:]+)(?::([0-9]+))?")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a person said of money that was given back of the invoice of a user, month and generation.

    Of `answered_cents`, `corrected_cents` were for rows of `usage_month` that went; the rest was meant beside
    whatever rows say. Answers add up: one below zero takes back an earlier one. All are before tax.
    """

    user_id: str
    month: str
    generation: int
    currency: str
    answered_cents: int
    corrected_cents: int
    usage_month: str

    @property
    def content(self) -> str:
        """The answer as the ledger keeps it."""
        cents = f"{self.answered_cents}:{self.corrected_cents}"
        return f"{self.currency}:{cents}:{self.usage_month}:{self.generation}"


@dataclass(frozen=True, slots=True)
class Invoice:
    """An invoice that is not void: its bill, and the months whose usage it charges unless it is given up.

    `charged_cents` is its `total_cents` with tax and after a coupon; `taken_off_cents` a person took off it
    at Stripe.
    """

    invoice_id: str
    month: str
    generation: int
    is_written_off: bool
    charging: Collection[str]
    taken_off_cents: int
    total_cents: int
    charged_cents: int

    @classmethod
    def of(cls, bill: Any, lines: Iterable[Line], charging: Collection[str] = ()) -> "Invoice":
        """Take it from a row of the ledger."""
        return cls(
            bill.stripe_invoice_id,
            bill.month,
            bill.generation,
            bill.state == State.UNCOLLECTIBLE.value,
            charging,
            max(0, -sum(line.amount_cents for line in lines if line.kind == CHANGED)),
            bill.total_cents,
            bill.total_cents + (bill.tax_cents or 0) - (bill.discount_cents or 0),
        )

    def back_cents(self, cents: int) -> int:
        """Return what was given back in all, before tax and coupon, where this went back at Stripe."""
        if self.charged_cents not in {0, self.total_cents}:
            cents = share_of(cents, Fraction(self.total_cents, self.charged_cents))
        return cents + self.taken_off_cents

    def at_stripe(self, cents: int) -> int:
        """Return what an amount before tax and coupon is at Stripe."""
        return share_of(cents, Fraction(self.charged_cents, self.total_cents)) if self.total_cents else cents


def add_what_went_back(
    connection: Connection, found: Mapping[BillOf, Held], standing: Mapping[BillOf, Invoice]
) -> None:
    """Add what was given back at Stripe of the invoices that charged something, and what was said of it.

    What was said of an invoice that is void since counts no more.
    """
    charging = {
        bill: abouts
        for bill, each in standing.items()
        if (abouts := [found[bill[0], of] for of in each.charging if (bill[0], of) in found])
    }
    back = money_back(connection, {standing[bill].invoice_id: bill for bill in charging})
    answers = read_answers(connection)
    answered = answered_cents(answers)
    for bill, abouts in charging.items():
        invoice = standing[bill]
        left_cents = invoice.back_cents(back[invoice.invoice_id]) - answered[*bill, invoice.generation]
        for about in abouts if left_cents > 0 else ():
            about.back[invoice.month] = left_cents
    for each in answers:
        found_about = found.get((each.user_id, each.usage_month))
        said_of = standing.get((each.user_id, each.month))
        if found_about is None or said_of is None or said_of.generation != each.generation:
            continue
        if said_of.is_written_off:
            found_about.forgiven_cents -= each.corrected_cents
        else:
            found_about.corrected_cents += each.corrected_cents
            found_about.charged_cents -= each.corrected_cents


def with_money_back(connection: Connection, month: str) -> set[str]:
    """Return a month's invoices of which money was given back, and others among them."""
    went = charges.c.refunded_cents + charges.c.disputed_cents != 0
    told = sa.and_(audit.c.month == month, audit.c.action == MONEY_BACK)
    queries = (
        sa.select(credit_notes.c.stripe_invoice_id),
        sa.select(charges.c.stripe_invoice_id).where(charges.c.month == month, went),
        sa.select(audit.c.stripe_invoice_id).where(told),
    )
    return {each for query in queries for each in connection.scalars(query)}


def read_answers(connection: Connection, *, leave_altered: bool = False) -> list[Answer]:
    """Return all answers, the oldest first; with `leave_altered`, without those that cannot be read.

    Raises:
        IntegrityError: when an answer was altered by hand, and cannot be read.
    """
    query = (
        sa.select(decisions.c.user_id, decisions.c.month, decisions.c.content_hash)
        .where(decisions.c.kind == DecisionKind.GIVEN_BACK_SETTLED.value)
        .order_by(decisions.c.id)
    )
    found = []
    for user_id, month, content in connection.execute(query):
        read = _CONTENT.fullmatch(content or "")
        if read is None and leave_altered:
            continue
        if read is None:
            said = f"What was said of money given back to user {user_id} for {month}"
            raise altered_row(said, "ledger_decisions")
        currency, answered, corrected, usage_month, generation = read.groups()
        # A ledger of before generations were noted was asked about first ones, but for the rarest.
        of_invoice = user_id, month, int(generation or "1")
        found.append(Answer(*of_invoice, currency, int(answered), int(corrected), usage_month))
    return found


def answered_cents(answers: Iterable[Answer]) -> Counter[tuple[str, str, int]]:
    """Sum what was answered, by the user, the month and the generation of the invoice."""
    sums: Counter[tuple[str, str, int]] = Counter()
    for each in answers:
        sums[each.user_id, each.month, each.generation] += each.answered_cents
    return sums


def money_back(connection: Connection, of: Mapping[str, tuple[str, str]]) -> Counter[str]:
    """Return what was given back of invoices, by their ids: credit notes, refunds and disputes.

    `of` has the user and the month of each. A dispute that is open counts: the bank has the money.
    """
    found: Counter[str] = Counter()
    named, by = list(of.items()), charges.c.stripe_invoice_id
    for first in range(0, len(named), _INVOICES_A_QUERY):
        some = dict(named[first : first + _INVOICES_A_QUERY])
        found.update(known_back(connection, some))
        of_charges = (sa.func.sum(charges.c[name]) for name in ("refunded_cents", "disputed_cents"))
        went = sa.select(by, *of_charges).where(by.in_(list(some))).group_by(by)
        for invoice_id, refunded, disputed in connection.execute(went):
            # A ledger of before amounts were noted has refunds without one in its audit trail.
            found[invoice_id] = max(found[invoice_id], int(refunded)) + int(disputed)
    return found
