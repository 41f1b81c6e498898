"""Where a user stands in the open month: what it costs so far, the spend limit, and whether it is reached."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from pydantic import BaseModel, Field

from spell_billing.core.drafting import Account
from spell_billing.core.money import format_money
from spell_billing.core.month import Month
from spell_billing.core.open_month import is_blocked, percent_used, rate_open_month, rating_of
from spell_billing.ledger.browsing import has_bill
from spell_billing.usage.contract import UsageSource
from spell_billing.web.api import Cents, Currency, Moment, Money, MonthText, User
from spell_billing.web.context import WebContext

SLOW_SECONDS = 0.05
"""An answer that took longer to read is kept, so that asking at every call does not burden the database."""
KEPT_FOR = 20
"""Times as long as it took to read."""
LONGEST_SECONDS = 60.0
"""No answer is kept for longer."""
_MOST_KEPT = 1_000
"""From here on answers whose time is over are removed."""


class Standing(BaseModel):
    """What a user's open month comes to so far, against the user's spend limit."""

    user_id: User
    month: MonthText
    currency: Currency
    so_far_cents: Cents = Field(description="What the bill would come to now.")
    so_far: Money
    limit_cents: int | None = Field(description="`billing_accounts.spend_limit_cents`; null without a limit.")
    limit: str | None = Field(description="The limit for people.", examples=["$50.00"])
    percent_used: int | None = Field(
        description="Of the limit, rounded down; null without a limit, and where the limit is zero."
    )
    blocked: bool = Field(description="Whether the limit is reached.")
    as_of: Moment = Field(description=f"When it was read: up to {LONGEST_SECONDS:.0f} seconds ago.")


@dataclass(frozen=True, slots=True)
class _Reading:
    """A reading under way, or one whose answer serves `until` (monotonic)."""

    answer: Future[Standing | None]
    until: float = float("inf")


class Standings:
    """Reads where users stand. Any thread may ask.

    Who asks for a user while the same is being read gets that answer. One that took longer than
    `SLOW_SECONDS` is kept for a while.
    """

    def __init__(self, context: WebContext, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._context = context
        # Kept: what it learns of the database takes as long as asking for a user.
        self._source = context.usage_source()
        self._monotonic = monotonic
        self._readings: dict[tuple[str, Month], _Reading] = {}
        self._lock = threading.Lock()

    def of(self, user_id: str) -> Standing | None:
        """Return where a user stands in the present month; None for a user of whom nothing is known.

        Raises:
            UsageError: when the platform's tables cannot be read, or not in time, or the limit is none.
            DatabaseUnreachableError: when its database does not answer.
        """
        key, mine = (user_id, Month.containing(self._context.clock())), _Reading(Future())
        with self._lock:
            began = self._monotonic()
            found = self._readings.get(key)
            if found is None or found.until <= began:
                self._readings[key] = found = mine
        if found is mine:
            try:
                mine.answer.set_result(_read(self._context, self._source, *key))
            except BaseException as error:
                mine.answer.set_exception(error)
                raise
            finally:
                self._keep(key, mine.answer, began)
        return found.answer.result()

    def _keep(self, key: tuple[str, Month], answer: Future[Standing | None], began: float) -> None:
        now = self._monotonic()
        took = now - began
        with self._lock:
            del self._readings[key]
            if took > SLOW_SECONDS and answer.exception() is None:
                if len(self._readings) >= _MOST_KEPT:
                    self._readings = {name: each for name, each in self._readings.items() if each.until > now}
                self._readings[key] = _Reading(answer, now + min(KEPT_FOR * took, LONGEST_SECONDS))


def _read(context: WebContext, source: UsageSource, user_id: str, month: Month) -> Standing | None:
    as_of = context.clock()
    found = source.spending(user_id, month)
    if found.account is None and not found.month.calls:
        with context.ledger.reading() as connection:
            if not has_bill(connection, user_id):
                return None
    account = found.account or Account(None)
    rating = rating_of(account, found.plan)
    so_far_cents = rate_open_month(found.month.cost_cents, rating).due_cents
    limit_cents = found.limit_cents
    return Standing(
        user_id=user_id,
        month=str(month),
        currency=account.currency,
        so_far_cents=so_far_cents,
        so_far=format_money(so_far_cents, account.currency, grouping=True),
        limit_cents=limit_cents,
        limit=None if limit_cents is None else format_money(limit_cents, account.currency, grouping=True),
        percent_used=percent_used(so_far_cents, limit_cents),
        blocked=is_blocked(so_far_cents, limit_cents),
        as_of=as_of,
    )
