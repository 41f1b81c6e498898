"""Grants: what users were given, or bought in advance, to pay later bills with. Pure."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta

import msgspec

from spell_billing.core.lines import GRANT, Line
from spell_billing.core.money import format_money
from spell_billing.core.month import Month

_DAY = timedelta(days=1)


class Grant(msgspec.Struct, frozen=True):
    """What is left of a grant, in minor units. It pays for months that begin before `expires_on` (UTC)."""

    grant_id: str
    currency: str
    left_cents: int
    expires_on: date
    is_paid: bool
    granted_at: datetime

    @property
    def last_month(self) -> Month:
        """The last month that it pays for."""
        return last_month_of(self.expires_on)


def last_month_of(expires_on: date) -> Month:
    """Return the last month that begins before a day."""
    before = expires_on - _DAY
    return Month(before.year, before.month)


def paid_by_grants(grants: Sequence[Grant], month: Month, due_cents: int, currency: str) -> list[Line]:
    """Return a line for each grant that pays something of what is due.

    What would be lost first is used first: the earliest expiry; then promotional grants before bought ones;
    then the oldest. Grants in other currencies wait.
    """
    usable = [
        each
        for each in grants
        if each.currency == currency and each.left_cents > 0 and month <= each.last_month
    ]
    lines: list[Line] = []
    for each in sorted(usable, key=lambda one: (one.expires_on, one.is_paid, one.granted_at, one.grant_id)):
        cents = min(each.left_cents, due_cents)
        if cents > 0:
            text = f"Prepaid credit {each.grant_id} (-{format_money(cents, currency)})"
            lines.append(Line(GRANT, text, -cents, str(month), grant_id=each.grant_id))
            due_cents -= cents
    return lines
