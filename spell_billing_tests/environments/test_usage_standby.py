"""A standby as the usage source: it must have the whole month, and what it interrupts is tried again."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from spell_billing.core.errors import SourceBehindError
from spell_billing.core.month import Month
from spell_billing.settings.databases import is_transient_sqlstate, parse_database_url
from spell_billing.usage.contract import SourceRules, UsageSource
from spell_billing.usage.source import open_usage_source
from spell_billing.usage.store import UsageStore
from spell_billing_tests.environments.servers import Server, own_server, standby_of

RECIPE = Path(__file__).parents[2] / "docs" / "recipes" / "replica.md"
LAST = Month.containing(datetime.now(UTC)).previous()
"""The last closed month: the primary writes now, after its end."""
OPEN = LAST.next()


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Server, Server]]:
    """Give a primary of its own, and a standby of it that has replayed all so far."""
    with own_server() as primary:
        primary.execute(
            "CREATE TABLE usage_counters (id bigint PRIMARY KEY, user_id text NOT NULL, "
            "cost_cents bigint NOT NULL, created_at timestamptz NOT NULL)"
        )
        with standby_of(primary.url) as standby:
            yield primary, standby


def source_of(server: Server, wait: timedelta = timedelta(0), user: str = "postgres") -> UsageSource:
    url = parse_database_url(server.url.replace("postgres:@", f"{user}@"), setting="USAGE_DATABASE_URL")
    return open_usage_source(url, SourceRules(wait=wait))


def catch_up(primary: Server, standby: Server) -> None:
    """Wait until the standby has replayed all that the primary has written."""
    written = primary.execute("SELECT pg_current_wal_flush_lsn()::text")
    while not standby.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", written):
        pass


def test_a_standby_that_lags_is_waited_for_and_then_named_with_the_time_it_is_complete_to(
    servers: tuple[Server, Server], tmp_path: Path
) -> None:
    primary, standby = servers
    store = UsageStore(tmp_path / "usage")
    primary.execute("INSERT INTO usage_counters VALUES (1, 'user-1', 5, %s)", LAST.start)
    catch_up(primary, standby)
    standby.execute("SELECT pg_wal_replay_pause()")
    primary.execute("INSERT INTO usage_counters VALUES (2, 'user-1', 7, %s)", LAST.start)
    while standby.execute("SELECT pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn()"):
        pass

    # No standby has a month that is not over yet: as if the last one ended later than all it has replayed.
    with pytest.raises(SourceBehindError, match=f"has the rows of {OPEN} only up to .* UTC") as refused:
        store.freeze(source_of(standby), OPEN)
    assert refused.value.transient
    assert store.versions(OPEN) == []

    waited: list[str] = []

    def go_on(words: str) -> None:
        waited.append(words)
        standby.execute("SELECT pg_wal_replay_resume()")

    # It still is not complete then, and says so after the wait.
    with pytest.raises(SourceBehindError):
        store.freeze(source_of(standby, timedelta(seconds=1)), OPEN, on_wait=go_on)
    assert len(waited) == 1
    assert "Waiting up to" in waited[0]

    catch_up(primary, standby)
    assert store.freeze(source_of(standby), LAST).manifest.frozen.calls == 2


def test_a_standby_of_an_idle_primary_is_complete_when_the_primary_says_so_to_those_who_may_know(
    servers: tuple[Server, Server], tmp_path: Path
) -> None:
    primary, standby = servers
    store = UsageStore(tmp_path / "usage")
    (recipe,) = re.findall(r"```sql\n(.*?)```", RECIPE.read_text(), re.DOTALL)
    primary.execute("CREATE TABLE billing_accounts (user_id text PRIMARY KEY, stripe_customer_id text)")
    for statement in recipe.split(";")[:-1]:
        primary.execute(re.sub("--.*", "", statement))
    primary.execute("CREATE ROLE untold LOGIN")
    primary.execute("GRANT SELECT ON usage_counters TO untold")
    # Restarted after a checkpoint, it has replayed no transaction.
    primary.execute("CHECKPOINT")
    catch_up(primary, standby)
    standby.execute("CHECKPOINT")
    standby.stop()
    standby.start()
    assert standby.execute("SELECT pg_last_xact_replay_timestamp()") is None

    assert (
        store.freeze(source_of(standby, timedelta(seconds=60), "billing_reader"), LAST).manifest.month == LAST
    )
    with pytest.raises(SourceBehindError, match="up to an unknown time") as refused:
        store.freeze(source_of(standby, user="untold"), LAST)
    assert "grant pg_read_all_stats" in refused.value.remedy


@pytest.mark.parametrize(
    "error",
    [
        psycopg.errors.SerializationFailure,
        psycopg.errors.DeadlockDetected,
        psycopg.errors.QueryCanceled,
        psycopg.errors.AdminShutdown,
        psycopg.errors.CrashShutdown,
        psycopg.errors.CannotConnectNow,
        psycopg.errors.DiskFull,
        psycopg.errors.OutOfMemory,
        psycopg.errors.TooManyConnections,
        psycopg.errors.ConnectionFailure,
        psycopg.errors.LockNotAvailable,
        psycopg.errors.IdleInTransactionSessionTimeout,
        psycopg.errors.IdleSessionTimeout,
    ],
)
def test_what_passes_by_itself_is_tried_again(error: type[psycopg.Error]) -> None:
    assert is_transient_sqlstate(str(error.sqlstate))


@pytest.mark.parametrize(
    "error",
    [psycopg.errors.UndefinedColumn, psycopg.errors.InsufficientPrivilege, psycopg.errors.DivisionByZero],
)
def test_what_a_person_must_correct_is_not(error: type[psycopg.Error]) -> None:
    assert not is_transient_sqlstate(str(error.sqlstate))
