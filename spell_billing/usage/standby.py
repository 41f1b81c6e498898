"""Whether a standby has the whole month: what it has not replayed would be billed late, or not at all."""

import time
from collections.abc import Callable
from datetime import UTC, timedelta
from typing import TypeVar

from spell_billing.core.errors import SourceBehindError
from spell_billing.core.month import Month
from spell_billing.usage.contract import OnWait
from spell_billing.usage.postgres_snapshot import Snapshot

T = TypeVar("T")

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 15.0

# A commit of the next month that was replayed proves the month, because commits are replayed in order. On an
# idle primary there is none: then all that was received must be replayed, and the primary must have spoken
# after the month, and not of more than that. When it last did is told to roles with pg_read_all_stats alone.
_POSITION = """
SELECT pg_is_in_recovery() AS standby,
       CASE WHEN pg_is_in_recovery() THEN pg_last_xact_replay_timestamp() END AS replayed,
       (SELECT last_msg_send_time FROM pg_stat_wal_receiver
        WHERE status = 'streaming' AND latest_end_lsn <= pg_last_wal_replay_lsn()
            AND pg_last_wal_receive_lsn() <= pg_last_wal_replay_lsn()) AS spoken
"""


def require_whole_month(snapshot: Snapshot, month: Month) -> None:
    """Refuse a standby that does not have all of the month. Ask before the first query of the snapshot.

    Raises:
        SourceBehindError: naming up to when it has all rows.
    """
    (found,) = snapshot.table(_POSITION).to_pylist()
    if not found["standby"]:
        return
    moments = (found["replayed"], found["spoken"])
    complete = max((each.astimezone(UTC) for each in moments if each is not None), default=None)
    if complete is not None and complete >= month.end:
        return
    up_to = f"only up to {complete:%Y-%m-%d %H:%M:%S} UTC" if complete else "up to an unknown time"
    raise SourceBehindError(
        f"The standby that is read has the rows of {month} {up_to}; the month ends on {month.last_day} at "
        "24:00 UTC.",
        remedy="It is retried automatically; if it persists, check that the standby follows its primary, and "
        "grant pg_read_all_stats where the primary is idle, or set USAGE_DATABASE_URL to the primary.",
    )


def wait_for_whole_month(freeze: Callable[[], T], wait: timedelta, on_wait: OnWait | None) -> T:
    """Freeze a month, again and again while the standby does not have all of it.

    Raises:
        SourceBehindError: it still does not have it after the wait.
    """
    end = time.monotonic() + wait.total_seconds()
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return freeze()
        except SourceBehindError as behind:
            left = end - time.monotonic()
            if left <= 0:
                raise
            if on_wait is not None:
                on_wait(
                    f"{behind.message} Waiting up to {left / 60:.0f} minutes for it (SOURCE_WAIT_MINUTES)."
                )
                on_wait = None
        time.sleep(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
