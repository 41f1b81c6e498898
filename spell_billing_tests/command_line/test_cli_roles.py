"""A month on PostgreSQL with three roles that are nobody's superuser: owner, ledger and reader."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

MARCH = "2025-03"
SQL = Path(__file__).parents[2] / "docs" / "sql"


@pytest.fixture
def roles(make_shop: Callable[[str], Any]) -> Iterator[tuple[Any, Callable[[str], str]]]:
    """Give a shop, and what gives each role's URL; the documented commands make the roles."""
    shop, suffix = make_shop("postgresql"), uuid.uuid4().hex[:8]

    def url(role: str) -> str:
        return sa.make_url(shop.url).set(username=f"{role}_{suffix}").render_as_string(hide_password=False)

    def run(file: str, by: str) -> None:
        text = (SQL / file).read_text()
        for role in ("billing_reader", "billing_ledger"):
            text = text.replace(role, f"{role}_{suffix}")
        with psycopg.connect(by, autocommit=True) as connection:
            connection.execute(text)

    with psycopg.connect(shop.url, autocommit=True) as admin:
        for role in ("billing_owner", "billing_ledger", "billing_reader"):
            admin.execute(f"CREATE ROLE {role}_{suffix} LOGIN")
        admin.execute(f"GRANT CREATE, USAGE ON SCHEMA public TO billing_owner_{suffix}")
        too_early = shop.run("init-db", DATABASE_URL=url("billing_ledger"))
        assert "as the tables' owner" in too_early.stderr
        assert shop.run("init-db", DATABASE_URL=url("billing_owner")).returncode == 0
        run("ledger_role.sql", url("billing_owner"))
        run("reading_role.sql", shop.url)
        yield shop, url
        for role in ("billing_owner", "billing_ledger", "billing_reader"):
            admin.execute(f"DROP OWNED BY {role}_{suffix} CASCADE")
            admin.execute(f"DROP ROLE {role}_{suffix}")


def test_a_month_runs_with_the_ledgers_and_the_readers_role_and_the_owner_erases(
    roles: tuple[Any, Callable[[str], str]],
) -> None:
    shop, url = roles
    shop.accounts("ada", "ben")
    shop.calls(MARCH, ("ada", 1000), ("ben", 500))
    runs = {"DATABASE_URL": url("billing_ledger"), "USAGE_DATABASE_URL": url("billing_reader")}

    def run(*arguments: str, **other: str) -> Any:
        return shop.run(*arguments, **{**runs, **other})

    for arguments in (
        ("init-db",),
        ("preview", "--month", MARCH),
        ("bill", "--month", MARCH),
        ("bill", "--month", MARCH, "--verify"),
        ("reconcile", "--month", MARCH),
        ("status",),
        ("explain", "--month", MARCH, "--user", "ada"),
        ("metrics", "--once"),
        ("readiness", "--month", "2025-04"),
        ("credit", "--month", MARCH, "--user", "ada", "--cents", "100", "--reason", "r"),
        ("void", "--month", MARCH, "--user", "ben", "--reason", "r", "--for-good"),
        ("grant", "--user", "ada", "--cents", "9", "--expires", "2099-01-01", "--reason", "r", "--id", "g-1"),
        ("revoke-grant", "--id", "g-1", "--reason", "r"),
        ("events",),
    ):
        done = run(*arguments)
        assert done.returncode == (1 if arguments[0] == "void" else 0), done.stdout + done.stderr
    shop.execute("DELETE FROM usage_counters WHERE user_id = 'ada'")
    shop.execute("DELETE FROM billing_accounts WHERE user_id = 'ada'")
    assert "does not own ledger_audit" in run("erase-user", "ada").stderr
    erased = run("erase-user", "ada", DATABASE_URL=url("billing_owner"))
    assert erased.returncode == 0, erased.stderr
    assert run("reconcile", "--month", MARCH).returncode == 0
