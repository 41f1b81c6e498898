"""Migrations: from empty, again, at once, never backwards, and beside the platform's own tables."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.schema import CreateIndex

from spell_billing.core.errors import LedgerError
from spell_billing.core.month import Month
from spell_billing.core.outcomes import Reason, State
from spell_billing.ledger.column_types import metadata
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.migrate import HEAD, current_revision, migrate
from spell_billing.ledger.schema import invoices
from spell_billing.settings.databases import (
    DatabaseUnreachableError,
    DatabaseUrl,
    create_engine_for,
    parse_database_url,
)
from spell_billing_tests.ledger.earlier_ledgers import make_earlier

REVISIONS = [f"{number:04}" for number in range(1, int(HEAD))]
TABLES = {*metadata.tables, "ledger_version"}


@pytest.fixture
def engine(url: DatabaseUrl) -> Iterator[sa.Engine]:
    opened = create_engine_for(url)
    yield opened
    opened.dispose()


def test_an_empty_database_is_migrated_once(engine: sa.Engine) -> None:
    assert migrate(engine) is True
    assert migrate(engine) is False
    with engine.connect() as connection:
        assert current_revision(connection) == HEAD
        assert set(sa.inspect(connection).get_table_names()) == TABLES


def test_the_newest_revision_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", "spell_billing.ledger:migrations")

    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_the_migrated_database_is_what_the_schema_says(engine: sa.Engine) -> None:
    migrate(engine)

    assert differences(engine) == []


def differences(engine: sa.Engine) -> list[Any]:
    """Compare the database with the schema: tables, columns, defaults, and in PostgreSQL comments."""
    options = {"version_table": "ledger_version", "compare_type": True, "compare_server_default": True}
    with engine.connect() as connection:
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


def test_every_migration_brings_comments_to_what_the_schema_has_now(postgres_url: str) -> None:
    engine = create_engine_for(parse_database_url(postgres_url, setting="DATABASE_URL"))
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE ledger_version SET version_num = '0015'"))
        # What later migrations add.
        connection.execute(sa.text("ALTER TABLE ledger_payments DROP COLUMN to_balance_cents"))
        connection.execute(sa.text("DROP INDEX ledger_invoices_replacing"))
        connection.execute(sa.text("COMMENT ON TABLE ledger_audit IS NULL"))
        connection.execute(sa.text("COMMENT ON COLUMN ledger_invoices.total_cents IS 'In euros.'"))
    assert len(differences(engine)) == 4

    migrate(engine)

    assert differences(engine) == []
    engine.dispose()


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_ledger_of_any_earlier_revision_keeps_its_bills_and_all_else_it_has(
    url: DatabaseUrl, engine: sa.Engine, revision: str
) -> None:
    with engine.begin() as connection:
        make_earlier(connection, revision)
        tables = sa.MetaData()
        tables.reflect(
            connection, only=lambda name, _: name.startswith("ledger_") and name != "ledger_version"
        )
        for table in tables.sorted_tables:
            connection.execute(table.insert(), [a_row(table)])

    with Ledger(url) as ledger:
        (bill,) = ledger.bills(Month(2025, 3))
        with ledger.reading() as connection:
            left = {
                name: connection.scalars(sa.select(sa.func.count()).select_from(sa.table(name))).one()
                for name in tables.tables
                if name in TABLES
            }
    assert (bill.user_id, bill.total_cents, bill.usage_cents, bill.state) == (
        "ada",
        1235,
        Decimal("1234.5"),
        "paid",
    )
    # What was kept in several tables may be several messages now.
    assert min(left.values()) == 1, left
    assert {name for name, rows in left.items() if rows > 1} <= {"ledger_outbox"}
    assert differences(engine) == []
    if engine.dialect.name == "sqlite":
        assert index_statements(engine) == {
            str(CreateIndex(index).compile(engine))
            for table in metadata.tables.values()
            for index in table.indexes
        }


def index_statements(engine: sa.Engine) -> set[str]:
    """Return what made the indexes, with their conditions, which `differences` does not compare."""
    made_by = sa.text("SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
    with engine.connect() as connection:
        return set(connection.scalars(made_by))


def a_row(table: sa.Table) -> dict[str, Any]:
    """Give a row of any ledger's table: what a bill says, and something for all else that must be said."""
    said = {
        "month": "2025-03",
        "user_id": "ada",
        "generation": 1,
        "state": "paid",
        "currency": "usd",
        "total_cents": 1235,
        "usage_cents": "1234.5",
        "unbilled_usage_cents": "0",
        "lines": "[]",
        "kind": "alert",
        "payload": "{}",
        "status": "paid",
        "channel": "alerts",
        "expires_on": date(2026, 1, 1),
    }
    row = {}
    for column in table.columns:
        needed = not column.nullable and column.server_default is None and not column.primary_key
        if column.name in said or needed or (column.primary_key and column.autoincrement is not True):
            row[column.name] = said.get(column.name, _something(column))
    if table.name == "ledger_invoices":
        row.pop("id", None)
    return row


def _something(column: sa.Column[Any]) -> Any:
    if isinstance(column.type, sa.DateTime):
        return datetime(2025, 4, 1, tzinfo=UTC)
    if isinstance(column.type, (sa.Integer, sa.Numeric)):
        return 1
    if isinstance(column.type, sa.Boolean):
        return False
    return (
        "2025-04-01 00:00:00.000000" if column.name.endswith(("_at", "_of")) or column.name == "at" else "x"
    )


def test_every_state_and_reason_fits_its_column() -> None:
    def length(column: sa.Column[Any]) -> int:
        assert isinstance(column.type, sa.String)
        assert column.type.length is not None
        return column.type.length

    assert max(map(len, State)) <= length(invoices.c.state)
    assert max(map(len, Reason)) <= length(invoices.c.reason)


def test_threads_that_migrate_at_once_migrate_it_once(url: DatabaseUrl) -> None:
    engines = [create_engine_for(url) for _ in range(4)]
    try:
        with ThreadPoolExecutor(len(engines)) as pool:
            assert sorted(pool.map(migrate, engines)) == [False, False, False, True]
    finally:
        for engine in engines:
            engine.dispose()


def test_processes_that_migrate_at_once_migrate_it_once(
    database_url: str, engine: sa.Engine, other_process: Callable[..., Any]
) -> None:
    processes = [other_process("migrate", database_url) for _ in range(2)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()

    assert sorted(process.stdout.readline().strip() for process in processes) == ["False", "True"]
    with engine.connect() as connection:
        assert current_revision(connection) == HEAD


def test_a_ledger_of_a_newer_program_is_refused(url: DatabaseUrl, engine: sa.Engine) -> None:
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE ledger_version SET version_num = '9999'"))

    with pytest.raises(
        LedgerError, match=rf"revision 9999, this program knows up to {HEAD}.*newer"
    ) as caught:
        Ledger(url)
    assert "spell_billing" in caught.value.remedy


def test_the_platforms_own_tables_and_revisions_are_left_alone(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
        connection.execute(sa.text("INSERT INTO alembic_version VALUES ('platform-7')"))

    migrate(engine)

    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT * FROM alembic_version")).all() == [("platform-7",)]
        assert set(sa.inspect(connection).get_table_names()) == TABLES | {"alembic_version"}


def test_a_migration_that_breaks_off_leaves_nothing_behind(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE ledger_audit (in_the_way INTEGER)"))

    with pytest.raises(sa.exc.DBAPIError, match="ledger_audit"):
        migrate(engine)

    with engine.begin() as connection:
        assert sa.inspect(connection).get_table_names() == ["ledger_audit"]
        connection.execute(sa.text("DROP TABLE ledger_audit"))
    assert migrate(engine) is True


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_cannot_hold_every_letter_is_refused_before_anything_is_made(
    database_in: Callable[[str], str], encoding: str
) -> None:
    url = parse_database_url(database_in(encoding), setting="DATABASE_URL")

    with pytest.raises(LedgerError, match=f"encoded in {encoding}") as raised:
        Ledger(url)
    assert "ENCODING 'UTF8'" in str(raised.value.remedy)
    engine = create_engine_for(url)
    assert sa.inspect(engine).get_table_names() == []
    engine.dispose()


def test_a_missing_file_is_named_and_not_made(tmp_path: Any) -> None:
    path = tmp_path / "missing.db"
    url = parse_database_url(f"sqlite:///{path}", setting="DATABASE_URL")

    with pytest.raises(DatabaseUnreachableError, match=r"missing\.db.*DATABASE_URL.*init-db"):
        Ledger(url)

    assert list(tmp_path.iterdir()) == []


def test_what_only_reads_migrates_nothing_and_says_who_does(url: DatabaseUrl, engine: sa.Engine) -> None:
    with pytest.raises(LedgerError, match=r"has no tables yet.*spell-billing init-db"):
        Ledger(url, read_only=True)
    with engine.connect() as connection:
        assert sa.inspect(connection).get_table_names() == []
    migrate(engine)
    with Ledger(url, read_only=True) as ledger:
        assert ledger.months() == []
    for revision, said in (("0004", "at revision 0004, and this program needs"), ("9999", "knows up to")):
        with engine.begin() as connection:
            connection.execute(sa.text("UPDATE ledger_version SET version_num = :to"), {"to": revision})
        with pytest.raises(LedgerError, match=said):
            Ledger(url, read_only=True)
        with engine.connect() as connection:
            assert current_revision(connection) == revision
