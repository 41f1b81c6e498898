"""Fixtures of the command line: a shop with usage and a Stripe double, and the commands as processes."""

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
import sqlalchemy as sa

from spell_billing.settings.databases import create_engine_for, parse_database_url
from spell_billing.stripe_double import StripeDouble

SECRETS = {
    "STRIPE_API_KEY": "sk_test_Vertraulich51",
    "STRIPE_WEBHOOK_SECRET": "whsec_Vertraulich52",
    "ADMIN_SECRET": "admin-Vertraulich53",
}
PASSWORD = "Vertraulich54"
"""Of the database; the test server trusts everybody, so that any password is right."""
CONFIDENTIAL = "Vertraulich"
_LONGEST_SECONDS = 120
_READ_AT_IMPORT = {"SPELL_BILLING_FIRST_MONTH", "BILLING_CRON", "BILLING_GRACE_MINUTES"}
_ROOT = Path(__file__).parents[2]
LOCAL_DAGSTER = _ROOT / "spell_billing" / "orchestration" / "local_dagster.yaml"


class Forks:
    """Runs commands as forks of a process that has everything imported."""

    def __init__(self, server: "subprocess.Popen[str]", outputs: Path) -> None:
        self._server, self._outputs = server, outputs

    @classmethod
    @contextmanager
    def serving(cls, outputs: Path) -> Iterator["Forks"]:
        command = [sys.executable, "-m", "spell_billing_tests.command_line.fork_server"]
        with subprocess.Popen(
            command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as server:
            yield cls(server, outputs)
            assert server.stdin is not None
            server.stdin.close()
            server.wait(_LONGEST_SECONDS)

    def run(
        self, arguments: Sequence[str], environment: Mapping[str, str], folder: Path, *, warm: bool = False
    ) -> "subprocess.CompletedProcess[str]":
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        stdout, stderr = self._outputs / "stdout", self._outputs / "stderr"
        question = {
            "arguments": arguments,
            "environment": dict(environment),
            "folder": str(folder),
            "stdout": str(stdout),
            "stderr": str(stderr),
            "warm": warm,
        }
        self._server.stdin.write(f"{json.dumps(question)}\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        return subprocess.CompletedProcess(list(arguments), code, stdout.read_text(), stderr.read_text())


@dataclass
class Shop:
    """A platform's database, a home of its own, a Stripe double, and the commands that work on them."""

    home: Path
    url: str
    double: StripeDouble
    forks: "Forks"
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """Everything a command knows: nothing of the caller's settings."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "SPELL_BILLING_HOME": str(self.home),
            "DATABASE_URL": self.url,
            "STRIPE_API_BASE": self.double.base_url,
            **SECRETS,
            **self.extra,
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "spell_billing", *arguments]

    def run(self, *arguments: str, **changes: str | None) -> "subprocess.CompletedProcess[str]":
        """Run a command with changed settings (None: unset); nothing secret may appear, nor a traceback.

        It is a fork of a process that has imported everything, or a new Python where imports read a setting.
        """
        environment = self._changed(changes)
        if _READ_AT_IMPORT & environment.keys():
            return self.run_from_nothing(*arguments, **changes)
        return self._told_well(self.forks.run(arguments, environment, self.home))

    def run_from_nothing(self, *arguments: str, **changes: str | None) -> "subprocess.CompletedProcess[str]":
        """Run a command as a shell does, in a new Python."""
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.home,
            env=self._changed(changes),
            capture_output=True,
            text=True,
            check=False,
            timeout=_LONGEST_SECONDS,
        )
        return self._told_well(done)

    def _changed(self, changes: Mapping[str, str | None]) -> dict[str, str]:
        environment = {**self.environment, **changes}
        return {name: value for name, value in environment.items() if value is not None}

    def _told_well(self, done: "subprocess.CompletedProcess[str]") -> "subprocess.CompletedProcess[str]":
        assert CONFIDENTIAL not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def json(self, *arguments: str) -> Any:
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def execute(self, statement: str, rows: Sequence[dict[str, Any]] = ()) -> None:
        engine = create_engine_for(parse_database_url(self.url, setting="DATABASE_URL"))
        with engine.begin() as connection:
            connection.execute(sa.text(statement), list(rows) or None)
        engine.dispose()

    def open(self) -> None:
        """Make the platform's tables."""
        text = "timestamptz" if self.url.startswith("postgres") else "TEXT"
        self.execute(
            "CREATE TABLE usage_counters (id INTEGER PRIMARY KEY, user_id TEXT NOT NULL, "
            f"cost_cents BIGINT NOT NULL, created_at {text} NOT NULL)"
        )
        self.execute(
            "CREATE TABLE billing_accounts (user_id TEXT PRIMARY KEY, stripe_customer_id TEXT, currency TEXT)"
        )

    def calls(self, month: str, *rows: tuple[str, int]) -> None:
        self.execute(
            "INSERT INTO usage_counters SELECT coalesce(max(id), 0) + 1, :user, :cost, "
            f"'{month}-15 12:00:00+00:00' FROM usage_counters",
            [{"user": user, "cost": cost} for user, cost in rows],
        )

    def accounts(self, *users: str) -> None:
        """Give users an account, and a customer `cus_<user>` at Stripe."""
        self.execute(
            "INSERT INTO billing_accounts VALUES (:user, :customer, 'usd')",
            [{"user": user, "customer": f"cus_{user}"} for user in users],
        )
        for user in users:
            self.double.add_customer(f"cus_{user}")


@pytest.fixture(scope="session")
def confidential() -> str:
    """Give the text that every secret of a shop holds."""
    return CONFIDENTIAL


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    with Forks.serving(tmp_path_factory.mktemp("outputs")) as serving:
        home = tmp_path_factory.mktemp("warm")
        (home / "shop.db").touch()
        with StripeDouble().running() as double:
            shop = Shop(home, f"sqlite:///{home / 'shop.db'}", double, serving)
            shop.open()
            shop.accounts("ada")
            shop.calls("2025-03", ("ada", 500))
            for command in (("init-db",), ("bill", "--month", "2025-03")):
                warmed = serving.run(command, shop.environment, home, warm=True)
                assert warmed.returncode == 0, warmed.stderr
        yield serving


@pytest.fixture(scope="session")
def dagster_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Dagster home as the first command that runs the job makes it."""
    home = tmp_path_factory.mktemp("dagster")
    shutil.copy(LOCAL_DAGSTER, home / "dagster.yaml")
    with dg.DagsterInstance.from_config(str(home)):
        return home


@pytest.fixture(scope="module")
def make_shop(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, forks: Forks
) -> Iterator[Callable[..., Shop]]:
    """Give `make_shop("sqlite" or "postgresql", ready=False)`: a shop of its own, with empty tables.

    One that is `ready` has the ledger's tables and Dagster's, as after `init-db` and a run of the job.
    """
    started, databases = [], []

    def make(kind: str, *, ready: bool = False) -> Shop:
        home = tmp_path_factory.mktemp("shop")
        url = f"sqlite:///{home / 'shop.db'}"
        template = "template1"
        if ready:
            shutil.copytree(request.getfixturevalue("dagster_home"), home / "dagster")
            if kind == "postgresql":
                template = request.getfixturevalue("migrated_postgres")
            else:
                shutil.copy(request.getfixturevalue("migrated_sqlite"), home / "shop.db")
        if kind == "postgresql":
            server = request.getfixturevalue("postgres_server")
            name = f"shop_{uuid.uuid4().hex}"
            with psycopg.connect(server, autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
            databases.append((server, name))
            place = sa.make_url(server).set(database=name, password=PASSWORD)
            url = place.render_as_string(hide_password=False)
        running = StripeDouble().running()
        shop = Shop(home, url, running.__enter__(), forks)
        started.append(running)
        shop.open()
        return shop

    yield make
    for running in started:
        running.__exit__(None, None, None)
    for server, name in databases:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
