"""Database URLs: every accepted spelling, every refusal, and passwords that never show."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dagster as dg
import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from spell_billing.core.errors import SettingsError
from spell_billing.orchestration.assets.common import failures
from spell_billing.settings.databases import (
    DatabaseUnreachableError,
    create_engine_for,
    database_errors,
    is_transient_sqlstate,
    parse_database_url,
    refused_statement,
    unreachable,
)


def parse(text: str) -> Any:
    return parse_database_url(text, setting="DATABASE_URL")


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("postgresql://db.example.com/spell", "postgresql://db.example.com/spell"),
        ("postgres://u:pw@db.example.com:5433/spell", "postgresql://u:***@db.example.com:5433/spell"),
        ("postgresql+psycopg://u@h/spell?sslmode=require", "postgresql://u@h/spell"),
        ("postgresql+psycopg2://u:p%40w@h/spell", "postgresql://u:***@h/spell"),
        (
            "postgresql://u:pw@/spell?host=/run/pg&port=5433",
            "postgresql://u:***@/spell?host=/run/pg&port=5433",
        ),
        ("postgresql://u:pw@[2001:db8::1]:5432/spell", "postgresql://u:***@[2001:db8::1]:5432/spell"),
        ("postgresql://h1:1,h2:2/spell", "postgresql://h1:1,h2:2/spell"),
        ("postgresql://h/spell?password=pw&user=u", "postgresql://u:***@h/spell"),
    ],
)
def test_every_spelling_of_a_postgresql_url_is_read_and_redacted(text: str, redacted: str) -> None:
    url = parse(text)

    assert url.backend == "postgresql"
    assert url.redacted == redacted
    assert url.sqlalchemy_url.drivername == "postgresql+psycopg"
    assert "pw" not in f"{url} {url!r}"


@given(password=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_any_percent_encoded_password_reaches_both_drivers_unchanged(password: str) -> None:
    url = parse(f"postgresql://u:{quote(password, safe='')}@h:5432/spell")

    assert url.sqlalchemy_url.password == password
    assert psycopg.conninfo.conninfo_to_dict(url.libpq_dsn)["password"] == password


def test_options_and_several_hosts_reach_both_drivers() -> None:
    url = parse("postgresql://u:pw@h1:1,h2:2/spell?sslmode=require&target_session_attrs=read-only")
    expected = {"user": "u", "password": "pw", "host": "h1,h2", "port": "1,2", "dbname": "spell"}
    expected |= {"sslmode": "require", "target_session_attrs": "read-only"}

    engine = create_engine_for(url)
    _, given_to_psycopg = engine.dialect.create_connect_args(url.sqlalchemy_url)

    given_to_adbc = psycopg.conninfo.conninfo_to_dict(url.libpq_dsn)
    assert {name: given_to_adbc[name] for name in expected} == expected
    assert {name: given_to_psycopg[name] for name in expected} == expected


@pytest.mark.parametrize("wanted", ["", "&connect_timeout=77&keepalives_idle=5"])
def test_a_server_that_does_not_answer_is_given_up_unless_the_url_says_when(wanted: str) -> None:
    url = parse(f"postgresql://u@h/spell?sslmode=require{wanted}")

    for options in (psycopg.conninfo.conninfo_to_dict(url.libpq_dsn), url.sqlalchemy_url.query):
        found = options["connect_timeout"], options["keepalives_idle"], options["tcp_user_timeout"]
        assert found == (("77", "5", "120000") if wanted else ("10", "60", "120000"))


def test_sqlite_paths_are_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)

    assert parse("sqlite:///data/billing.db").sqlite_path == tmp_path / "data" / "billing.db"
    assert parse(f"sqlite:///{tmp_path}/b.db").sqlite_path == tmp_path / "b.db"
    assert parse("sqlite:///b.db").sqlalchemy_url.database == str(tmp_path / "b.db")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spell.db",
        "mysql://u:secret@h/spell",
        "postgresql+asyncpg://u:secret@h/spell",
        "postgresql://u:secret@h",
        "postgresql://u:sec@ret@h/spell",
        "postgresql://u:12/se@cret@h/spell",
        "postgresql://u:secret@h:port/spell",
        "postgresql://u:secret@h/spell?no_such_option=1",
        "postgresql://u:%zzsecret@h/spell",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///file::memory:",
        "sqlite:///file:secret?mode=memory&uri=true",
        "sqlite://secret/spell.db",
        "secret://secret",
        "postgresql:secret",
    ],
)
def test_what_is_refused_names_the_setting_and_never_echoes_the_secret(text: str) -> None:
    with pytest.raises(SettingsError, match="DATABASE_URL") as caught:
        parse(text)

    assert caught.value.remedy
    assert caught.value.__cause__ is None
    assert "secret" not in str(caught.value).replace("'secret' is neither", "")


def test_an_engine_of_either_database_commits_and_reads_back(database_url: str) -> None:
    engine = create_engine_for(parse(database_url))
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE t (n integer)"))
        connection.execute(sa.text("INSERT INTO t VALUES (1)"))

    with engine.execution_options(read_only=True).connect() as connection:
        assert connection.execute(sa.text("SELECT n FROM t")).scalar() == 1
    engine.dispose()


def test_a_sqlite_engine_checks_foreign_keys_and_waits_for_locks(sqlite_url: str) -> None:
    engine = create_engine_for(parse(sqlite_url))
    with engine.connect() as connection:
        settings = [
            connection.execute(sa.text(f"PRAGMA {name}")).scalar()
            for name in ("foreign_keys", "journal_mode", "synchronous", "busy_timeout")
        ]
    engine.dispose()

    assert settings == [1, "wal", 2, 30_000]


def test_a_sqlite_reader_sees_the_last_commit_while_a_writer_holds_its_lock(sqlite_url: str) -> None:
    engine = create_engine_for(parse(sqlite_url))
    with engine.begin() as setup:
        setup.execute(sa.text("CREATE TABLE t (n integer)"))
    with engine.begin() as writer:
        writer.execute(sa.text("INSERT INTO t VALUES (1)"))
        with engine.execution_options(read_only=True).connect() as reader:
            assert reader.execute(sa.text("SELECT count(*) FROM t")).scalar() == 0
    engine.dispose()


@pytest.mark.parametrize(
    "text", ["postgresql://u:secret@127.0.0.1:1/spell", "sqlite:////nowhere/at/all/spell.db"]
)
def test_an_unreachable_database_is_named_with_its_setting_and_remedy(text: str) -> None:
    url = parse(text)
    engine = create_engine_for(url)

    with pytest.raises(DatabaseUnreachableError) as caught, database_errors(url), engine.connect():
        pass

    assert url.redacted in caught.value.message
    assert "DATABASE_URL" in caught.value.remedy
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("reason", "named"),
    [
        ("SSL error: certificate verify failed", "sslrootcert"),
        ('root certificate file "/nowhere/ca.pem" does not exist', "sslrootcert"),
        ('weak sslmode "require" may not be used with sslrootcert=system (use "verify-full")', "sslmode"),
        ("server does not support SSL, but SSL was required", "sslmode"),
        ('server certificate for "localhost" does not match host name "127.0.0.1"', "certificate"),
        ('FATAL:  no pg_hba.conf entry for host "127.0.0.1", user "u", no encryption', "pg_hba.conf"),
        ("FATAL:  sorry, too many clients already", "max_connections"),
        ("FATAL:  query_wait_timeout", "default_pool_size"),
        ("FATAL:  the database system is starting up", "has started"),
        ('FATAL:  database "spell" does not exist', "right host, database"),
        ("Connection refused", "right host, database"),
    ],
)
def test_the_remedy_fits_the_reason_why_a_server_lets_nobody_in(reason: str, named: str) -> None:
    assert named in unreachable(parse("postgresql://u@h/spell"), f"connection failed: {reason}").remedy


def test_a_wrong_login_counts_as_unreachable(postgres_url: str) -> None:
    url = parse(postgres_url.replace("postgres:@", "nobody:secret@"))

    with pytest.raises(DatabaseUnreachableError, match="nobody"), database_errors(url):
        psycopg.connect(url.libpq_dsn)


def test_a_file_that_is_no_database_counts_as_unreachable(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to be looked at as one " * 20)
    url = parse(f"sqlite:///{path}")
    engine = create_engine_for(url)

    with pytest.raises(DatabaseUnreachableError, match=r"notes\.txt"), database_errors(url), engine.connect():
        pass
    engine.dispose()


def _divide_by_zero(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("SELECT 1/0")


def _ask_for_a_missing_table(url: str) -> None:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    try:
        connection.execute("SELECT * FROM missing")
    finally:
        connection.close()


def test_an_error_of_a_statement_passes_unchanged(postgres_url: str, sqlite_url: str) -> None:
    cases: list[tuple[str, Callable[[str], None], type[Exception]]] = [
        (postgres_url, _divide_by_zero, psycopg.errors.DivisionByZero),
        (sqlite_url, _ask_for_a_missing_table, sqlite3.OperationalError),
    ]
    for text, act, expected in cases:
        with pytest.raises(expected), database_errors(parse(text)):
            act(text)


@pytest.mark.parametrize(
    ("state", "transient"),
    [
        *(
            (state, True)
            for state in ("08006", "40001", "40P01", "53100", "53200", "53300", "55006", "55P03")
        ),
        *((state, True) for state in ("57014", "57P01", "57P02", "57P03", "57P05", "58030", "25P03")),
        *((state, False) for state in ("22003", "23505", "42501", "42601", "42P01", "P0001", "", None)),
    ],
)
def test_an_sqlstate_is_transient_where_nobody_has_to_act(state: str | None, *, transient: bool) -> None:
    assert is_transient_sqlstate(state) is transient


@pytest.mark.parametrize(
    ("statement", "transient"),
    [
        ("SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(20)", True),
        ("SELECT pg_terminate_backend(pg_backend_pid())", True),
        ("SELECT no_such_column", False),
    ],
)
def test_a_refused_statement_says_whether_to_try_again(
    postgres_url: str, statement: str, *, transient: bool
) -> None:
    engine = create_engine_for(parse(postgres_url))
    with pytest.raises(sa.exc.DBAPIError) as caught, engine.connect() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()

    refused = refused_statement(caught.value)
    assert refused.transient is transient
    assert ("try again" in refused.remedy) is transient
    with pytest.raises(dg.Failure) as failure, failures():
        raise caught.value
    assert failure.value.metadata["transient"].value is transient


def test_a_server_that_only_reads_is_named_with_its_setting(postgres_url: str) -> None:
    engine = create_engine_for(parse(postgres_url))
    with engine.connect() as connection:
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")
        with pytest.raises(sa.exc.DBAPIError) as caught:
            connection.exec_driver_sql("CREATE TABLE never (n integer)")
    engine.dispose()

    assert "DATABASE_URL must lead to a server that writes, not to a standby" in str(
        refused_statement(caught.value)
    )


@pytest.mark.parametrize(
    "error", [psycopg.errors.DiskFull(), sqlite3.OperationalError("database or disk is full")]
)
def test_a_full_disk_is_named(error: Exception) -> None:
    assert (
        "Make room on the database's disk"
        in refused_statement(sa.exc.OperationalError("", None, error)).remedy
    )


def test_a_locked_sqlite_file_is_to_be_tried_again() -> None:
    locked = sa.exc.OperationalError("", None, sqlite3.OperationalError("database is locked"))
    missing = sa.exc.OperationalError("", None, sqlite3.OperationalError("no such table: ledger_months"))

    assert refused_statement(locked).transient
    assert not refused_statement(missing).transient
