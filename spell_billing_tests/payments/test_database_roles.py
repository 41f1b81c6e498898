"""The database roles: with the documented grants everything works, and nothing beyond them can be done."""

import re
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from spell_billing.cli import main
from spell_billing.core.errors import LedgerError, UsageError
from spell_billing.invoicing.review import hold, release
from spell_billing.ledger import waiting_users
from spell_billing.ledger.column_types import metadata
from spell_billing.ledger.erasing import require_audit_can_be_rewritten
from spell_billing.ledger.events import forget_events
from spell_billing.ledger.grants import add_grant
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.moves import record_move
from spell_billing.ledger.outbox import ALERTS, NOT_INVOICED
from spell_billing.ledger.privileges import PRIVILEGES, SEQUENCES, refusal
from spell_billing.ledger.privileges import grants as ledger_grants
from spell_billing.ledger.reviews import write_review
from spell_billing.ledger.rows import Actor
from spell_billing.ledger.runs import RunRecord, RunResult
from spell_billing.ledger.schema import outbox
from spell_billing.ledger.stripe_account import StripeAccount, record_account
from spell_billing.settings.databases import DatabaseUrl, create_engine_for, parse_database_url
from spell_billing.usage import privileges as reading
from spell_billing.usage.source import open_usage_source
from spell_billing.usage.store import UsageStore
from spell_billing_tests.payments.test_restricted_key import life
from spell_billing_tests.payments.world import FOUR, ONE, THREE, TWO, World
from spell_billing_tests.proof.small_platform import APRIL, MARCH

NOW = datetime(2025, 6, 1, tzinfo=UTC)
SQL = Path(__file__).parents[2] / "docs" / "sql"
VERBS = {"INSERT INTO": "INSERT", "UPDATE": "UPDATE", "DELETE FROM": "DELETE"}
READER, LEDGER = "reading_role.sql", "ledger_role.sql"


@dataclass
class Roles:
    """A migrated database with the platform's tables, and roles of its own with the documented grants."""

    world: World
    owner: "psycopg.Connection[Any]"
    owner_url: str
    suffix: str

    def name(self, role: str) -> str:
        return f"{role}_{self.suffix}"

    def url_of(self, *roles: str) -> str:
        """Make a user in the roles, and give its URL."""
        user = f"user_{uuid.uuid4().hex[:8]}_{self.suffix}"
        self.owner.execute(f"CREATE ROLE {user} LOGIN IN ROLE {', '.join(map(self.name, roles))}")
        return re.sub(r"//[^@/]*@", f"//{user}@", self.owner_url)

    def run(self, file: str) -> None:
        """Run a file of the docs, its role renamed: roles are the server's, and tests share one."""
        text = (SQL / file).read_text()
        for role in ("billing_reader", "billing_ledger"):
            text = text.replace(role, self.name(role))
        self.owner.execute(text)


@pytest.fixture
def roles(make_world: Callable[[str], World], postgres_url: str) -> Iterator[Roles]:
    suffix = uuid.uuid4().hex[:8]
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        made = Roles(make_world(postgres_url), owner, postgres_url, suffix)
        for role, file in (("billing_reader", READER), ("billing_ledger", LEDGER)):
            owner.execute(f"CREATE ROLE {made.name(role)}")
            made.run(file)
        yield made
        names = owner.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE %s", [f"%{suffix}"])
        for (name,) in names.fetchall():
            owner.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


def database(url: str, setting: str = "DATABASE_URL") -> DatabaseUrl:
    return parse_database_url(url, setting=setting)


class Statements:
    """What SQLAlchemy sends: the privileges that each statement needs, by table."""

    def __init__(self) -> None:
        self.used: defaultdict[str, set[str]] = defaultdict(set)

    def take(self, _: object, __: object, statement: str, *___: object) -> None:
        for verb, table in re.findall(
            r"\b(INSERT INTO|UPDATE|DELETE FROM|FROM|JOIN|,)\s+(ledger_\w+)", statement
        ):
            self.used[table].add(VERBS.get(verb, "SELECT"))
            if verb == "INSERT INTO" and "DO UPDATE" in statement:
                self.used[table].add("UPDATE")


def beside_bills(world: World) -> None:
    """Do in the ledger what no bill of the life needs: grants, moves, reviews, runs, the account, alerts."""
    actor = Actor("tester")
    with world.ledger() as ledger:
        with ledger.writing() as connection:
            forget_events(connection, handled_before=datetime(2030, 1, 1, tzinfo=UTC))
            terms: dict[str, Any] = {"expires_on": date(2027, 1, 1), "is_paid": False, "reason": "why"}
            add_grant(connection, "g-1", TWO, 500, "usd", actor=actor, now=NOW, **terms)
            record_move(
                connection, THREE, FOUR, reason="merged", actor=actor, has_usage=lambda _: False, now=NOW
            )
            for findings in ([], [{"text": "x"}]):
                write_review(connection, APRIL, drafts_hash="h", findings=findings, now=NOW)
            for account_id in (None, "acct_1"):
                record_account(connection, StripeAccount("test", account_id), NOW)
            gone = {"key": "k", "channel": ALERTS, "kind": NOT_INVOICED, "user_id": "gone"}
            times = {"created_at": NOW, "next_try_at": NOW, "tries": 0, "payload": "{}"}
            connection.execute(outbox.insert(), [{**gone, **times, "month": str(MARCH)}])
        ledger.record_run(RunRecord("run", str(MARCH), NOW, NOW, RunResult.DONE))
        assert ledger.runs(MARCH)
        waiting_users.forget_changed(ledger)


def test_with_the_documented_grants_everything_works_and_each_is_used(roles: Roles) -> None:
    world, statements = roles.world, Statements()
    # Its owner still fills the platform's tables.
    world.platform.url = roles.url_of("billing_reader", "billing_ledger")
    sa.event.listen(sa.Engine, "before_cursor_execute", statements.take)
    try:
        for name, step, _ in life(world):
            if name != "adopt":
                step()
        actor, platform = Actor("tester"), world.platform
        platform.calls(APRIL.next(), (ONE, 700))
        platform.draft(APRIL.next())
        with world.ledger() as ledger:
            hold(ledger, APRIL.next(), actor, "why", ONE)
            release(ledger, APRIL.next(), actor, "why", ONE)
        platform.send(APRIL.next())
        platform.must_agree(APRIL.next())
        beside_bills(world)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", statements.take)

    unused = {
        table: sorted(set(wanted) - statements.used[table])
        for table, wanted in PRIVILEGES.items()
        if set(wanted) - statements.used[table]
    }
    assert unused == {}


def test_without_one_grant_the_ledger_names_it_and_what_to_do(roles: Roles) -> None:
    url = roles.url_of("billing_ledger")
    role, engine = roles.name("billing_ledger"), create_engine_for(database(url))
    needs = {
        "SELECT": "SELECT FROM {}",
        "INSERT": "INSERT INTO {} DEFAULT VALUES",
        "UPDATE": "UPDATE {} SET {} = {}",
        "DELETE": "DELETE FROM {}",
    }
    every = [(privilege, table) for table, given in PRIVILEGES.items() for privilege in given]
    every += [("USAGE", f"SEQUENCE {name}") for name in SEQUENCES]
    for privilege, what in every:
        roles.owner.execute(f"REVOKE {privilege} ON {what} FROM {role}")
        # Whatever is refused first: the catalog tells what is missing.
        column = metadata.tables[what].columns.keys()[0] if what in metadata.tables else ""
        statement = needs.get(privilege, "SELECT nextval('{}')").format(what.split()[-1], column, column)
        with engine.connect() as connection, pytest.raises(sa.exc.DBAPIError) as refused:
            connection.execute(sa.text(statement))
        error = refusal(refused.value, database(url))
        assert f"may not {privilege} ON {what}." in error.message
        assert f"GRANT {privilege} ON {what} TO user_" in error.remedy
        assert not error.transient
        roles.owner.execute(f"GRANT {privilege} ON {what} TO {role}")
    engine.dispose()


def test_a_command_names_the_grant_that_is_missing(roles: Roles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", roles.url_of("billing_reader", "billing_ledger"))
    roles.world.platform.accounts(ONE)
    asked = [
        "grant",
        "--user",
        ONE,
        "--cents",
        "5",
        "--expires",
        "2027-01-01",
        "--reason",
        "r",
        "--id",
        "g-1",
    ]
    role = roles.name("billing_ledger")
    roles.owner.execute(
        f"REVOKE INSERT ON ledger_credits FROM {role}; REVOKE SELECT ON ledger_version FROM {role}"
    )

    outdated = CliRunner().invoke(main, asked)
    roles.owner.execute(f"GRANT SELECT ON ledger_version TO {role}")
    refused = CliRunner().invoke(main, asked)

    assert (outdated.exit_code, refused.exit_code) == (1, 1)
    assert "Run `spell-billing init-db` as the tables' owner" in outdated.stderr
    assert "may not INSERT ON ledger_credits. Nothing of it was written." in refused.stderr


def test_without_one_grant_the_reader_names_column_and_table(roles: Roles, tmp_path: Path) -> None:
    roles.owner.execute("ALTER TABLE billing_accounts ADD COLUMN spend_limit_cents bigint")
    roles.run(READER)
    url, role = roles.url_of("billing_reader"), roles.name("billing_reader")
    roles.world.platform.accounts(ONE)
    roles.world.platform.calls(MARCH, (ONE, 5))
    source = open_usage_source(database(url, "USAGE_DATABASE_URL"))

    def read_all() -> None:
        UsageStore(tmp_path / uuid.uuid4().hex).freeze(source, MARCH)
        source.accounts()
        source.plans(MARCH)

    there = {
        (table, name)
        for table, name in roles.owner.execute(
            "SELECT attrelid::regclass::text, attname FROM pg_attribute "
            "WHERE attnum > 0 AND NOT attisdropped "
            "AND attrelid = ANY (SELECT to_regclass(name) FROM unnest(%s::text[]) AS name)",
            [list(reading.READ)],
        ).fetchall()
    }
    granted = {(table, name) for table, names in reading.READ.items() for name in names} & there
    assert len(granted) >= 8
    for table, column in sorted(granted):
        roles.owner.execute(f"REVOKE SELECT ({column}) ON {table} FROM {role}")
        with pytest.raises(UsageError) as refused:
            source.spend_limits() if column == "spend_limit_cents" else read_all()
        assert f"may not read {column} of {table}." in refused.value.message
        assert f"GRANT SELECT ({column}) ON {table} TO user_" in refused.value.remedy
        roles.owner.execute(f"GRANT SELECT ({column}) ON {table} TO {role}")
    read_all()
    roles.owner.execute(f"REVOKE USAGE ON SCHEMA public FROM {role}, PUBLIC")
    with pytest.raises(UsageError, match="usage_counters is in the schema public") as refused:
        read_all()
    assert "GRANT USAGE ON SCHEMA public TO user_" in refused.value.remedy
    roles.owner.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")


BEYOND = {
    "billing_reader": [
        "INSERT INTO usage_counters (user_id) VALUES ('x')",
        "UPDATE usage_counters SET cost_cents = 0",
        "DELETE FROM billing_accounts",
        "TRUNCATE usage_counters",
        "DROP TABLE usage_counters",
        "CREATE TABLE mine (id int)",
        "SELECT FROM ledger_invoices",
    ],
    "billing_ledger": [
        "SELECT FROM usage_counters",
        "INSERT INTO usage_counters (user_id) VALUES ('x')",
        "UPDATE ledger_audit SET actor = 'x'",
        "DELETE FROM ledger_audit",
        "TRUNCATE ledger_audit",
        "ALTER TABLE ledger_audit DISABLE TRIGGER ALL",
        "UPDATE ledger_credits SET amount_cents = 1",
        "DELETE FROM ledger_months",
        "DROP TABLE ledger_invoices",
        "CREATE TABLE mine (id int)",
        "UPDATE ledger_version SET version_num = 'x'",
    ],
}


@pytest.mark.parametrize("role", sorted(BEYOND))
def test_a_role_can_do_nothing_beyond(roles: Roles, role: str) -> None:
    with psycopg.connect(roles.url_of(role), autocommit=True) as connection:
        for statement in BEYOND[role]:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


def test_erasing_a_user_is_the_owners(roles: Roles) -> None:
    with (
        Ledger(database(roles.url_of("billing_ledger"))) as ledger,
        ledger.writing() as connection,
        pytest.raises(LedgerError, match="does not own ledger_audit"),
    ):
        require_audit_can_be_rewritten(connection)


def test_the_files_are_what_the_code_says_and_name_every_table() -> None:
    assert set(PRIVILEGES) == {*metadata.tables, "ledger_version"}
    for file, grants in ((READER, reading.grants()), (LEDGER, ledger_grants())):
        text = (SQL / file).read_text()
        kept = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("--"))
        assert kept.strip() == "".join(f"{each};\n" for each in grants).strip()
