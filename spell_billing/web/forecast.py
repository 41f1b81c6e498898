"""What the open month may bring, for the overview: read at most once in some minutes, beside the page."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from spell_billing.core.month import Month
from spell_billing.core.open_month import METHOD, Expected, expected_totals
from spell_billing.usage.accounts import accounts_by_user
from spell_billing.usage.contract import UsageSource
from spell_billing.usage.plan_book import book_of
from spell_billing.web.context import WebContext

EVERY_SECONDS = 300.0
"""No two readings begin within this time."""
REST = 20
"""The next reading begins this many times as long after one as it took: a large month takes minutes."""
WAIT_SECONDS = 0.5
"""A page waits this long for a reading."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What was read: the open month by currency, as of a time."""

    month: Month
    as_of: datetime
    expected: Sequence[Expected]


@dataclass(frozen=True, slots=True)
class Shown:
    """What a page shows: the latest forecast of the month, if any; a sentence where no newer one was read."""

    month: Month
    forecast: Forecast | None
    note: str | None
    method: str = METHOD


class Forecasts:
    """Reads forecasts, one at a time, in a thread of its own. Any thread may ask.

    A reading that fails is told in a sentence and in the log, and tried again as the next one would be.
    """

    def __init__(
        self,
        context: WebContext,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        source: UsageSource | None = None,
    ) -> None:
        self._context = context
        self._source = source or context.usage_source()
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._reader = threading.Thread()
        self._next = 0.0
        self._latest: Forecast | None = None
        self._has_failed = False

    def shown(self) -> Shown:
        """Return the latest forecast; begin to read another where it is time, and wait a moment for it."""
        month = Month.containing(self._context.clock())
        with self._lock:
            if not self._reader.is_alive() and self._is_due(month):
                self._reader = threading.Thread(target=self._read, args=(month,), daemon=True)
                self._reader.start()
            reader = self._reader
        reader.join(WAIT_SECONDS)
        note = None
        if reader.is_alive():
            note = "Usage is being read: look again in a minute."
        elif self._has_failed:
            note = "Usage could not be read: it is tried again in some minutes. The server's log says why."
        latest = self._latest
        return Shown(month, latest if latest is not None and latest.month == month else None, note)

    def _is_due(self, month: Month) -> bool:
        is_over = self._latest is not None and self._latest.month != month
        return is_over or self._monotonic() >= self._next

    def _read(self, month: Month) -> None:
        began = self._monotonic()
        try:
            as_of = self._context.clock()
            usage = {user: totals.cost_cents for user, totals in self._source.so_far(month).items()}
            book = book_of(month, self._source.plans(month))
            usage |= dict.fromkeys(book.users_charged_alone() - usage.keys(), Decimal(0))
            accounts = accounts_by_user(self._source.accounts(usage))
            totals = expected_totals(usage, accounts, month, as_of, book.plan_of)
            self._latest, self._has_failed = Forecast(month, as_of, totals), False
        except Exception as error:  # noqa: BLE001 - whatever it is, a page says that there is no forecast
            self._has_failed = True
            named = f"{type(error).__name__}: {error}"
            _LOG.warning("no forecast of %s: %s", month, getattr(error, "message", named))
        now = self._monotonic()
        self._next = max(began + EVERY_SECONDS, now + REST * (now - began))
