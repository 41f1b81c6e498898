"""Grants: what users were given, or bought in advance, to pay later bills with. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from spell_billing.core.lines import GRANT, Line
from spell_billing.core.money import format_money
from spell_billing.core.month import Month

GRANTED, PAID, REVOKED = "granted", "paid", "revoked"
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A grant with what became of it, in minor units; it pays for months that begin before `expires_on`.

    `is_expired`: the last month that it pays for is billed.
    """

    grant_id: str
    user_id: str
    kind: str
    currency: str
    amount_cents: int
    expires_on: date
    granted_at: datetime
    reason: str
    revoked_cents: int = 0
    applied_cents: int = 0
    is_expired: bool = False

    @property
    def left_cents(self) -> int:
        """What no bill used, and nobody took back."""
        return self.amount_cents - self.revoked_cents - self.applied_cents

    @property
    def is_owed(self) -> bool:
        """Whether something is left for months that are not billed."""
        return self.left_cents > 0 and not self.is_expired

    @property
    def expired_cents(self) -> int:
        """What was left when the last month that it pays for was billed."""
        return self.left_cents if self.is_expired else 0

    def pays_in(self, month: Month) -> bool:
        """Return whether something is left for the bills of a month."""
        return self.left_cents > 0 and month <= last_month_of(self.expires_on)


def last_month_of(expires_on: date) -> Month:
    """Return the last month that begins before a day."""
    before = expires_on - _DAY
    return Month(before.year, before.month)


def paid_by_grants(grants: Sequence[Grant], month: Month, due_cents: int, currency: str) -> list[Line]:
    """Return a line for each grant that pays something of what is due.

    What would be lost first is used first: the earliest expiry; then promotional grants before bought ones;
    then the oldest. Grants in other currencies wait.
    """
    usable = [each for each in grants if each.currency == currency and each.pays_in(month)]
    lines: list[Line] = []
    for each in sorted(
        usable, key=lambda one: (one.expires_on, one.kind == PAID, one.granted_at, one.grant_id)
    ):
        cents = min(each.left_cents, due_cents)
        if cents > 0:
            text = f"Prepaid credit {each.grant_id} (-{format_money(cents, currency)})"
            lines.append(Line(GRANT, text, -cents, str(month), grant_id=each.grant_id))
            due_cents -= cents
    return lines
