"""Reads amounts, percentages and times of plans, subscriptions and discounts, which come as text."""

import re
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation

from spell_billing.core.errors import UsageError
from spell_billing.core.month import Month

_WHOLE = re.compile(r"(\d{1,18})(\.0*)?", re.ASCII)
_ALL = 100
_OPEN = {"starts_at": "-infinity", "ends_at": "infinity"}
"""What PostgreSQL says for since ever and for good."""


def span_times(starts: str | None, ends: str | None, where: str) -> tuple[datetime | None, datetime | None]:
    """Read a start and an end; None is open. UsageError, naming `where`, for what is no time or no span."""
    starts_at, ends_at = _moment(starts, "starts_at", where), _moment(ends, "ends_at", where)
    if starts_at is not None and ends_at is not None and ends_at < starts_at:
        raise UsageError(
            f"{where} ends at {ends_at:%Y-%m-%d %H:%M:%S}, before it starts.",
            remedy="Correct starts_at or ends_at (null: open).",
        )
    return starts_at, ends_at


def ended_before(ends_at: datetime | None, month: Month) -> bool:
    """Return whether it ended in the month before, and is kept to be told from one that vanished."""
    return ends_at is not None and month.previous().start <= ends_at <= month.start


def touches(starts_at: datetime | None, ends_at: datetime | None, month: Month) -> bool:
    """Return whether a span is of some time of the month or the next."""
    starts_in_time = starts_at is None or starts_at < month.next().end
    return starts_in_time and (ends_at is None or ends_at > month.start)


def whole_cents(text: str) -> int | None:
    """Read a whole number of minor units, zero or more; None is what is none."""
    found = _WHOLE.fullmatch(text.strip())
    return int(found[1]) if found else None


def cents_of(text: str | None, column: str, where: str) -> int:
    """Read whole minor units; nothing is zero. UsageError, naming `where`, for anything else."""
    cents = whole_cents((text or "").strip() or "0")
    if cents is None:
        raise UsageError(
            f"{where} has {column} {text!r}, not a whole number of cents that is zero or more.",
            remedy="Set it to a whole number of cents, or to null for none.",
        )
    return cents


def percent_of(text: str | None, column: str, where: str) -> Decimal:
    """Read a percentage; nothing is zero. UsageError, naming `where`, for anything else."""
    try:
        value = Decimal((text or "").strip() or "0")
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or not 0 <= value <= _ALL:
        raise UsageError(
            f"{where} has {column} {text!r}, not a percentage from 0 to 100.",
            remedy="Set it to a number from 0 to 100, or to null for none.",
        )
    return value


def _moment(text: str | None, column: str, where: str) -> datetime | None:
    """Read a time; one without an offset is in UTC, as all times of the platform are."""
    if text is None or text == _OPEN[column]:
        return None
    try:
        moment = datetime.fromisoformat(text.strip())
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{where} has {column} {text!r}, which is not a time.",
            remedy="Write it as 2026-10-31 or 2026-10-31 12:00:00+00:00, or leave it null for open.",
        ) from error
