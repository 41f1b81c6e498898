"""A platform with `spell-billing serve`, Dagster's daemon and the Stripe double around it."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dagster as dg
import orjson

from spell_billing.core.month import Month
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Actor
from spell_billing.settings.databases import parse_database_url
from spell_billing.stripe_double import Invoice, StripeDouble

ROOT = Path(__file__).resolve().parents[2]
SECRET = "a-secret-of-the-tests-0123456789"
DEADLINE_SECONDS = 120
_POLL_SECONDS = 0.1


class Served:
    """One home with everything that a server has; the server itself can be stopped and started again."""

    def __init__(self, home: Path, double: StripeDouble, source: Any, database: str) -> None:
        self.home, self.double, self.source, self.database = home, double, source, database
        self.port = free_port()
        self._server: subprocess.Popen[bytes] | None = None
        self._callers: list[Running] = []
        dagster_home = home / "dagster"
        dagster_home.mkdir()
        shutil.copy(
            ROOT / "spell_billing" / "orchestration" / "local_dagster.yaml", dagster_home / "dagster.yaml"
        )
        # Server and daemon started at once on an empty home would race for who makes Dagster's own tables.
        with dg.DagsterInstance.from_config(str(dagster_home)):
            pass
        self.environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(home),
            "DAGSTER_HOME": str(dagster_home),
            "SPELL_BILLING_HOME": str(home),
            "SPELL_BILLING_FIRST_MONTH": "2025-01",
            "DATABASE_URL": database,
            "STRIPE_API_KEY": "sk_test_served",
            "STRIPE_API_BASE": double.base_url,
            "ADMIN_SECRET": SECRET,
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server, on the same port as before."""
        self._server = self._begin("server.log", ["spell-billing", "serve", "--port", str(self.port)])
        self.wait_for(lambda: answers(f"{self.url}/health"), "the server answers")

    def stop(self) -> None:
        """End the server at once, as a crash would."""
        assert self._server is not None
        end(self._server)
        self._server = None

    @contextmanager
    def running(self) -> Iterator["Served"]:
        daemon = self._begin("daemon.log", ["dagster-daemon", "run", "-w", str(ROOT / "workspace.yaml")])
        try:
            self.start()
            yield self
        finally:
            for caller in self._callers:
                caller.stop()
            if self._server is not None:
                self.stop()
            end(daemon)

    @contextmanager
    def reader(self) -> Iterator[str]:
        """Give the address of a second server, which only reads."""
        port = free_port()
        process = self._begin("reader.log", ["spell-billing", "serve", "--port", str(port), "--read-only"])
        try:
            url = f"http://127.0.0.1:{port}"
            self.wait_for(lambda: answers(f"{url}/health"), "the server that only reads answers")
            yield url
        finally:
            end(process)

    @classmethod
    @contextmanager
    def new(cls, home: Path, make_source_tables: Callable[[str], Any]) -> Iterator["Served"]:
        """Run everything on a home of its own, on a platform that has no usage yet."""
        database = f"sqlite:///{home / 'platform.db'}"
        with (
            StripeDouble().running() as double,
            cls(home, double, make_source_tables(database), database).running() as running,
        ):
            yield running

    def usage(self, month: str, users: Mapping[str, int], *, without_account: Sequence[str] = ()) -> None:
        """Give users usage in a month, in cents, and an account where they have none yet."""
        moment = Month.parse(month).start.replace(day=9)
        self.source.calls([(user, cents, moment) for user, cents in users.items()])
        for user in users:
            if user not in without_account:
                with suppress(sqlite3.IntegrityError):
                    self.source.accounts([{"user_id": user, "stripe_customer_id": f"cus_{user}"}])
                    self.double.add_customer(f"cus_{user}")

    def ask(self, path: str, body: object = None) -> Any:
        """Ask the server with the secret."""
        request = urllib.request.Request(  # noqa: S310 - our own address
            f"{self.url}{path}",
            None if body is None else orjson.dumps(body),
            {"X-Admin-Secret": SECRET, "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - our own address
            return orjson.loads(answer.read())

    def runs(self, month: str) -> list[dict[str, Any]]:
        """Give the month's runs, the newest first."""
        found: list[dict[str, Any]] = self.ask(f"/admin/billing/months/{month}")["runs"]
        return found

    def invoices(self, month: str) -> list[Invoice]:
        """Give the month's finalized invoices at Stripe."""
        label = Month.parse(month).label
        return [
            each
            for each in self.double.invoices()
            if each.status != "draft" and label in (each.description or "")
        ]

    @contextmanager
    def held(self, month: str) -> Iterator[None]:
        """Hold the month's lock, so that a run of it stays under way."""
        with (
            Ledger(parse_database_url(self.database, setting="DATABASE_URL")) as ledger,
            ledger.session(Month.parse(month), Actor("test"), wait_seconds=0),
        ):
            yield

    def trigger(self, *arguments: str, **environment: str) -> "Running":
        """Start `spell-billing trigger` towards the server, in an environment with some changes."""
        return self.run(["spell-billing", "trigger", *arguments], environment)

    def run(self, command: Sequence[str], environment: Mapping[str, str], *, cwd: Path = ROOT) -> "Running":
        """Start a program of a caller: it has the secret and the address, nothing of the server's else."""
        own = {name: self.environment[name] for name in ("PATH", "HOME", "ADMIN_SECRET")}
        self._callers.append(Running(command, {**own, "API_URL": self.url, **environment}, cwd))
        return self._callers[-1]

    def wait_for(self, reached: Callable[[], object], what: str) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not reached():
            logs = [path.read_text()[-2000:] for path in sorted(self.home.glob("*.log"))]
            assert time.monotonic() < deadline, f"not within {DEADLINE_SECONDS} s: {what}\n" + "\n".join(logs)
            time.sleep(_POLL_SECONDS)

    def _begin(self, log: str, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.home / log).open("ab") as output:
            return subprocess.Popen(
                command,
                cwd=self.home,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )


class Running:
    """A program under way, whose output can be waited for."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], cwd: Path) -> None:
        self.output = ""
        self._news = threading.Condition()
        self._process = subprocess.Popen(
            list(command),
            env=dict(environment),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def until(self, words: str) -> None:
        """Wait until the program has written the words."""
        with self._news:
            self._news.wait_for(
                lambda: words in self.output or not self._reader.is_alive(), timeout=DEADLINE_SECONDS
            )
        assert words in self.output, f"{words!r} is not in:\n{self.output}"

    def end(self) -> int:
        """Wait for the program's end and give its exit code."""
        try:
            code = self._process.wait(timeout=DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            self.stop()
            raise AssertionError(f"not ended after {DEADLINE_SECONDS} s:\n{self.output}") from None
        self._reader.join()
        assert SECRET not in self.output
        return code

    def stop(self) -> None:
        """End the program if it is still under way."""
        end(self._process)
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                with self._news:
                    self.output += line.decode()
                    self._news.notify_all()
        with self._news:
            self._news.notify_all()


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process with everything that it started."""
    # Code servers and runs are in the group of its own that it began with.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def answers(url: str) -> bool:
    """Tell whether a server answers at an address."""
    try:
        with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - our own address
            return True
    except OSError:
        return False


def free_port() -> int:
    """Give a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
