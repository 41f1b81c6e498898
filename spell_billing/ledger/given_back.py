"""What was given back of invoices at Stripe, and whether it was for rows that went, as people said."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.ledger.credit_notes import MONEY_BACK
from spell_billing.ledger.money_tables import charges, credit_notes
from spell_billing.ledger.reviews import DecisionKind
from spell_billing.ledger.schema import audit, decisions

_INVOICES_A_QUERY = 500


@dataclass(frozen=True, slots=True)
class Answer:
    """What a person said of money that was given back of the invoice of a user and month.

    Of `answered_cents`, `corrected_cents` were for rows of `usage_month` that went; the rest was meant beside
    whatever rows say. Answers add up: one below zero takes back an earlier one.
    """

    user_id: str
    month: str
    currency: str
    answered_cents: int
    corrected_cents: int
    usage_month: str

    @property
    def content(self) -> str:
        """The answer as the ledger keeps it."""
        return f"{self.currency}:{self.answered_cents}:{self.corrected_cents}:{self.usage_month}"


def read_answers(connection: Connection) -> list[Answer]:
    """Return all answers, the oldest first."""
    query = (
        sa.select(decisions.c.user_id, decisions.c.month, decisions.c.content_hash)
        .where(decisions.c.kind == DecisionKind.GIVEN_BACK_SETTLED.value)
        .order_by(decisions.c.id)
    )
    found = []
    for user_id, month, content in connection.execute(query):
        currency, answered, corrected, usage_month = content.split(":")
        found.append(Answer(user_id, month, currency, int(answered), int(corrected), usage_month))
    return found


def answered_cents(answers: Iterable[Answer]) -> Counter[tuple[str, str]]:
    """Sum what was answered, by the user and the month of the invoice."""
    sums: Counter[tuple[str, str]] = Counter()
    for each in answers:
        sums[each.user_id, each.month] += each.answered_cents
    return sums


def corrected_cents(answers: Iterable[Answer]) -> Counter[tuple[str, str]]:
    """Sum what was for rows that went, by the user and the month of the usage."""
    sums: Counter[tuple[str, str]] = Counter()
    for each in answers:
        if each.corrected_cents:
            sums[each.user_id, each.usage_month] += each.corrected_cents
    return sums


def money_back(connection: Connection, of: Mapping[str, tuple[str, str]]) -> Counter[str]:
    """Return what was given back of invoices, by their ids: credit notes, refunds and disputes.

    `of` has the user and the month of each. A dispute that is open counts: the bank has the money.
    """
    found: Counter[str] = Counter()
    named = list(of)
    for first in range(0, len(named), _INVOICES_A_QUERY):
        ids = named[first : first + _INVOICES_A_QUERY]
        found.update(_money_back(connection, ids, [of[each] for each in ids]))
    return found


def _money_back(connection: Connection, ids: Sequence[str], bills: Sequence[tuple[str, str]]) -> Counter[str]:
    said: Counter[str] = Counter()
    is_ours = credit_notes.c.stripe_invoice_id.in_(ids)
    asked = sa.select(credit_notes.c.stripe_invoice_id, sa.func.sum(credit_notes.c.cents)).where(
        is_ours, sa.func.coalesce(credit_notes.c.outcome, "issued") == "issued"
    )
    seen = sa.select(audit.c.stripe_invoice_id, sa.func.sum(audit.c.amount_cents)).where(
        # The index is by month and user.
        audit.c.month.in_({month for _, month in bills}),
        audit.c.user_id.in_({user_id for user_id, _ in bills}),
        audit.c.action == MONEY_BACK,
        audit.c.stripe_invoice_id.in_(ids),
        audit.c.amount_cents.is_not(None),
    )
    for query, by in ((asked, credit_notes), (seen, audit)):
        for invoice_id, cents in connection.execute(query.group_by(by.c.stripe_invoice_id)):
            said[invoice_id] += int(cents)
    of_charges = (sa.func.sum(charges.c[name]) for name in ("refunded_cents", "disputed_cents"))
    went = sa.select(charges.c.stripe_invoice_id, *of_charges).where(charges.c.stripe_invoice_id.in_(ids))
    disputes: Counter[str] = Counter()
    for invoice_id, refunded, disputed in connection.execute(went.group_by(charges.c.stripe_invoice_id)):
        # A ledger of before amounts were noted has refunds without one in its audit trail.
        said[invoice_id] = max(said[invoice_id], int(refunded))
        disputes[invoice_id] = int(disputed)
    said.update(disputes)
    return said
