"""The servers of this folder are what they say: a pooler in transaction mode, a standby that can pause."""

import psycopg

from spell_billing_tests.environments.servers import own_server, pooler, standby_of


def test_a_pooler_gives_each_transaction_any_session(postgres_url: str) -> None:
    with (
        pooler(postgres_url) as url,
        psycopg.connect(url, autocommit=True) as first,
        psycopg.connect(url, autocommit=True) as second,
    ):
        sessions = {
            connection.execute("SELECT pg_backend_pid()").fetchone() for connection in (first, second)
        }
    assert len(sessions) == 1


def test_a_standby_stops_replaying_when_it_is_told(postgres_server: str) -> None:
    with standby_of(postgres_server) as standby:
        assert standby.execute("SELECT pg_is_in_recovery()")
        standby.execute("SELECT pg_wal_replay_pause()")
        assert standby.execute("SELECT pg_is_wal_replay_paused()")


def test_a_server_of_its_own_takes_settings() -> None:
    with own_server(idle_session_timeout="7s") as server:
        assert server.execute("SHOW idle_session_timeout") == "7s"
