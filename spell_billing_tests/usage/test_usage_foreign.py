"""Foreign tables: what their own server hides cannot be seen from here, which is said once, or ruled out."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from spell_billing.core.errors import UsageError
from spell_billing.core.month import Month
from spell_billing.invoicing.guards import source_warnings
from spell_billing.settings.databases import parse_database_url
from spell_billing.usage.frozen import FrozenUsage
from spell_billing.usage.source import open_usage_source
from spell_billing.usage.store import UsageStore

OCTOBER = Month(2026, 10)
COLUMNS = "id bigint, user_id text, cost_cents bigint, created_at timestamptz"
FOREIGN = f"CREATE FOREIGN TABLE calls ({COLUMNS}) SERVER elsewhere"
REFUSING = "ALTER SERVER elsewhere OPTIONS (ADD options '-c row_security=off')"


@pytest.fixture
def elsewhere(database_in: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    """Give the URL of another database, where a policy hides bob's rows, and a role that it holds for."""
    url, role = database_in("UTF8"), f"app_{uuid.uuid4().hex}"
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in (
            f"CREATE TABLE calls ({COLUMNS})",
            "INSERT INTO calls VALUES (1, 'ann', 5, '2026-10-15'), (2, 'bob', 7, '2026-10-15')",
            "ALTER TABLE calls ENABLE ROW LEVEL SECURITY",
            "CREATE POLICY only_ann ON calls USING (user_id = 'ann')",
            f"CREATE ROLE {role} LOGIN",
            f"GRANT SELECT ON calls TO {role}",
        ):
            connection.execute(statement)
        yield url, role
        connection.execute(f"DROP OWNED BY {role}")
        connection.execute(f"DROP ROLE {role}")


@pytest.fixture
def freeze(
    postgres_url: str, make_source_tables: Any, elsewhere: tuple[str, str], tmp_path: Path
) -> Callable[..., FrozenUsage]:
    """Give a function that freezes October through a server with options, from tables made by statements."""
    parts = psycopg.conninfo.conninfo_to_dict(elsewhere[0])
    reached = ", ".join(f"{name} '{parts[name]}'" for name in ("host", "port", "dbname") if name in parts)

    def act(*statements: str) -> FrozenUsage:
        make_source_tables(postgres_url).execute(
            "DROP TABLE usage_counters",
            "CREATE EXTENSION postgres_fdw",
            f"CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({reached})",
            f"CREATE USER MAPPING FOR CURRENT_USER SERVER elsewhere OPTIONS (user '{elsewhere[1]}')",
            *statements,
        )
        source = open_usage_source(parse_database_url(postgres_url, setting="USAGE_DATABASE_URL"))
        return UsageStore(tmp_path / "usage").freeze(source, OCTOBER)

    return act


@pytest.mark.parametrize(
    ("statements", "name"),
    [
        (
            [FOREIGN.replace("TABLE calls", "TABLE usage_counters") + " OPTIONS (table_name 'calls')"],
            "usage_counters",
        ),
        (
            [
                FOREIGN,
                "CREATE VIEW good AS SELECT * FROM calls WHERE cost_cents > 0",
                "CREATE VIEW usage_counters AS SELECT * FROM good",
            ],
            "calls",
        ),
        (
            [
                f"CREATE TABLE usage_counters ({COLUMNS}) PARTITION BY RANGE (created_at)",
                "CREATE FOREIGN TABLE calls PARTITION OF usage_counters DEFAULT SERVER elsewhere",
            ],
            "calls",
        ),
    ],
    ids=["itself", "below views", "a partition"],
)
def test_a_foreign_table_whose_server_may_hide_rows_is_named_once(
    freeze: Callable[..., FrozenUsage], statements: list[str], name: str
) -> None:
    frozen = freeze(*statements)

    assert frozen.manifest.frozen.calls == 1, "bob's row is hidden"
    (warning,) = source_warnings(frozen, None)
    assert warning.startswith(f"Row security of another server may hide rows of {name}: ")
    assert "options '-c row_security=off'" in warning
    assert source_warnings(frozen, frozen) == []


def test_a_server_that_is_told_to_refuse_does_so(freeze: Callable[..., FrozenUsage]) -> None:
    with pytest.raises(UsageError, match="affected by row-level security policy"):
        freeze(FOREIGN, "CREATE VIEW usage_counters AS SELECT * FROM calls", REFUSING)


def test_a_server_that_refuses_and_has_no_policy_is_not_warned_of(
    freeze: Callable[..., FrozenUsage], elsewhere: tuple[str, str]
) -> None:
    with psycopg.connect(elsewhere[0]) as connection:
        connection.execute("ALTER TABLE calls DISABLE ROW LEVEL SECURITY")

    frozen = freeze(FOREIGN, "CREATE VIEW usage_counters AS SELECT * FROM calls", REFUSING)

    assert frozen.manifest.frozen.calls == 2
    assert source_warnings(frozen, None) == []
