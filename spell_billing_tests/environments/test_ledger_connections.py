"""What stands between the ledger and its server: refused in one sentence, or it works."""

from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy as sa

from spell_billing.core.errors import MonthLockedError, SettingsError
from spell_billing.core.month import Month
from spell_billing.ledger import ledger as ledger_module
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Actor
from spell_billing.settings.databases import create_engine_for, parse_database_url
from spell_billing_tests.environments.servers import Server, own_server, pooler

OCTOBER = Month(2026, 10)
ME = Actor("test")


def opened(url: str) -> Ledger:
    return Ledger(parse_database_url(url, setting="DATABASE_URL"))


def settings_of_sessions(url: str) -> set[tuple[str, str]]:
    """Give the settings that the sessions behind a pooler were left with, beyond what they began with."""
    with psycopg.connect(url, autocommit=True) as connection:
        return set(
            connection.execute(
                "SELECT name, setting FROM pg_settings WHERE source = 'session' "
                "AND name NOT IN ('application_name', 'client_encoding', 'DateStyle', 'TimeZone', "
                "'standard_conforming_strings', 'IntervalStyle')"
            ).fetchall()
        )


@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_a_pooler_that_keeps_no_session_is_refused_and_left_as_it_was(postgres_url: str, mode: str) -> None:
    with pooler(postgres_url, mode=mode) as url:
        with pytest.raises(SettingsError, match="DATABASE_URL leads through a pooler") as refused:
            opened(url)
        assert "pool_mode = session" in refused.value.remedy
        assert settings_of_sessions(url) == set()
    with psycopg.connect(postgres_url) as connection:
        tables = connection.execute(
            "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'ledger%'"
        ).fetchone()
    assert tables == (0,)


def test_a_pooler_that_takes_turns_among_idle_sessions_is_refused(postgres_url: str) -> None:
    with pooler(postgres_url, mode="transaction", server_round_robin="1") as url:
        clients = [psycopg.connect(url) for _ in range(3)]
        for client in clients:
            client.execute("SELECT 1")
        for client in clients:
            client.commit()
        with pytest.raises(SettingsError, match="pooler"):
            opened(url)
        for client in clients:
            client.close()


def test_a_pooler_that_keeps_sessions_excludes_a_second_run(postgres_url: str) -> None:
    with (
        pooler(postgres_url, mode="session") as url,
        opened(url) as ledger,
        opened(postgres_url) as direct,
        ledger.session(OCTOBER, ME, wait_seconds=0) as session,
    ):
        assert session.record() is None
        assert direct.is_held(OCTOBER)
        with pytest.raises(MonthLockedError), direct.session(OCTOBER, ME, wait_seconds=0):
            pass
    with opened(postgres_url) as direct:
        assert not direct.is_held(OCTOBER)


def test_a_pooler_that_resets_no_session_serves_one_connection_after_the_other(postgres_url: str) -> None:
    with pooler(postgres_url, mode="session", server_reset_query="") as url:
        for _ in range(2):
            engine = create_engine_for(parse_database_url(url, setting="DATABASE_URL"))
            with engine.begin() as connection:
                assert [connection.scalar(sa.text("SELECT 1")) for _ in range(10)] == [1] * 10
            engine.dispose()
        for _ in range(2):
            with opened(url) as ledger, ledger.session(OCTOBER, ME, wait_seconds=0) as session:
                assert session.record() is None
        with opened(postgres_url) as direct:
            assert not direct.is_held(OCTOBER)


def test_a_holder_that_is_served_by_another_session_writes_no_more(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As where the pooler was busy while it was looked at.
    monkeypatch.setattr(ledger_module, "require_sessions", lambda *_: None)
    with (
        opened(postgres_url),
        pooler(postgres_url) as url,
        opened(url) as ledger,
        ledger.session(OCTOBER, ME, wait_seconds=0) as session,
        psycopg.connect(url) as other,
    ):
        other.execute("SELECT 1")
        with pytest.raises(SettingsError, match="pooler"):
            session.record()


@pytest.fixture
def impatient() -> Iterator[Server]:
    """Give a server that ends a session which does nothing for a second."""
    with own_server(idle_session_timeout="1s") as server:
        yield server


def test_a_holder_that_waits_for_stripe_keeps_its_lock(impatient: Server) -> None:
    with opened(impatient.url) as ledger, ledger.session(OCTOBER, ME, wait_seconds=0) as session:
        with (
            pytest.raises(
                psycopg.OperationalError, match=r"idle-session timeout|server closed the connection"
            ),
            psycopg.connect(impatient.url, autocommit=True) as other,
        ):
            list(other.notifies(timeout=30))
        assert session.record() is None
        assert ledger.is_held(OCTOBER)
        name = sa.text("SELECT setting FROM pg_settings WHERE name = 'idle_session_timeout'")
        with ledger.reading() as connection:
            assert connection.scalar(name) == "1000"
