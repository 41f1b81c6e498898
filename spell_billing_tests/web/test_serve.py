"""`spell-billing serve` as people start it: two servers and a daemon on one instance bill a month once."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest

from spell_billing.stripe_double import StripeDouble
from spell_billing_tests.web.house import SECRET, Answer

ROOT = Path(__file__).resolve().parents[2]
BINARIES = Path(sys.executable).parent
DEADLINE_SECONDS = 120
POLL_SECONDS = 0.25


class Server:
    """One `serve` process."""

    def __init__(self, process: subprocess.Popen[str], port: int, first_line: str) -> None:
        self.process = process
        self.port = port
        self.first_line = first_line

    def ask(self, method: str, path: str, body: str | None = None, *, secret: str | None = SECRET) -> Answer:
        headers = {} if secret is None else {"X-Admin-Secret": secret}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {**headers, "Content-Type": "application/json"})
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.headers.items()), answer.read())
        finally:
            connection.close()

    def bill(self, month: str) -> Answer:
        return self.ask("POST", "/admin/billing/process-monthly", json.dumps({"month": month}))


@contextmanager
def server(environment: dict[str, str], home: Path, *options: str) -> Iterator[Server]:
    """Start `spell-billing serve` on a free port; when it says that it listens, it answers."""
    with (home / "serve.log").open("w") as log:
        process = subprocess.Popen(
            [str(BINARIES / "spell-billing"), "serve", "--port", "0", *options],
            cwd=home,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith(("Listening at http://127.0.0.1:", "Listening at http://0.0.0.0:")), (
                home / log.name
            ).read_text()
            yield Server(process, int(line.split()[2].rpartition(":")[2]), line)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            assert process.stdout is not None
            process.stdout.close()


@contextmanager
def daemon(environment: dict[str, str], home: Path) -> Iterator[None]:
    command = [str(BINARIES / "dagster-daemon"), "run", "-w", str(ROOT / "workspace.yaml")]
    with (home / "daemon.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=home, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield
        finally:
            # Its code server and runs are in the group of its own that it began with.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def environment(tmp_path: Path, sqlite_url: str, shared_double: StripeDouble) -> dict[str, str]:
    """Give the environment of a server; the Dagster home has its tables already."""
    shared_double.reset()
    dagster_home = tmp_path / "dagster"
    dagster_home.mkdir()
    shutil.copy(
        ROOT / "spell_billing" / "orchestration" / "local_dagster.yaml", dagster_home / "dagster.yaml"
    )
    with dg.DagsterInstance.from_config(str(dagster_home)):
        pass
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "DAGSTER_HOME": str(dagster_home),
        "SPELL_BILLING_HOME": str(tmp_path),
        "DATABASE_URL": sqlite_url,
        "STRIPE_API_KEY": "sk_test_serve",
        "STRIPE_API_BASE": shared_double.base_url,
        "ADMIN_SECRET": SECRET,
    }


def until(reached: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not reached():
        assert time.monotonic() < deadline, f"not within {DEADLINE_SECONDS} s: {what}"
        time.sleep(POLL_SECONDS)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ADMIN_SECRET": ""}, "ADMIN_SECRET is not set"),
        ({"ADMIN_SECRET": "short"}, "ADMIN_SECRET is too short"),
        ({"STRIPE_WEBHOOK_SECRET": "x"}, "STRIPE_WEBHOOK_SECRET is not a signing secret"),
        ({"SPELL_BILLING_PUBLIC_URL": "http://example.com"}, "SPELL_BILLING_PUBLIC_URL would send secrets"),
        ({"FORWARDED_ALLOW_IPS": "*"}, "FORWARDED_ALLOW_IPS"),
    ],
)
def test_a_wrong_setting_stops_the_server_before_it_listens(
    tmp_path: Path, changes: dict[str, str], says: str
) -> None:
    values = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "ADMIN_SECRET": SECRET, **changes}
    command = [str(BINARIES / "spell-billing"), "serve", "--port", "0"]
    ended = subprocess.run(
        command, env=values, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )

    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: ")
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_two_servers_and_a_daemon_bill_a_month_once(
    environment: dict[str, str],
    tmp_path: Path,
    sqlite_url: str,
    make_source_tables: Callable[..., Any],
    shared_double: StripeDouble,
) -> None:
    """One scenario, because every server costs a process of Dagster's: see the assertions in turn."""
    source = make_source_tables(sqlite_url)
    source.accounts([{"user_id": "user-0001", "stripe_customer_id": "cus_1"}])
    source.calls([("user-0001", 1234, "2025-01-15T12:00:00+00:00")])
    shared_double.add_customer("cus_1")
    with_file, without_file = tmp_path / "with", tmp_path / "without"
    with_file.mkdir()
    without_file.mkdir()
    shutil.copy(ROOT / "workspace.yaml", with_file)
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(8))
        # The second one has no workspace.yaml to read, and takes the installed module.
        one = pool.submit(stack.enter_context, server(environment, with_file))
        everywhere = ("--host", "0.0.0.0")  # noqa: S104 - what is tested
        two = pool.submit(stack.enter_context, server(environment, without_file, *everywhere))
        servers = [one.result(), two.result()]
        assert servers[0].ask("GET", "/", secret=None).status == 401
        asked = list(pool.map(lambda number: servers[number % 2].bill("2025-01"), range(8)))

        assert sorted(answer.status for answer in asked) == [202] + [409] * 7
        assert len({answer.json["run_id"] for answer in asked}) == 1
        started = next(answer.json for answer in asked if answer.status == 202)
        stack.enter_context(daemon(environment, tmp_path))

        def status() -> Any:
            return servers[1].ask("GET", "/admin/billing/months/2025-01").json

        until(lambda: status()["runs"][0]["ended_at"], "the run ends")
        month = status()
        assert month["runs"][0]["id"] == started["run_id"]
        assert month["runs"][0]["status"] == "SUCCESS", (tmp_path / "daemon.log").read_text()
        assert (month["state"], month["invoiced"], month["invoiced_cents"]) == ("billed", 1, 1234)
        assert servers[0].bill("2025-01").json["status"] == "already_billed"

    assert "put TLS in front of it" in (without_file / "serve.log").read_text()
    assert "put TLS in front of it" not in (with_file / "serve.log").read_text()
    assert [invoice.total_cents for invoice in shared_double.invoices()] == [1234]
    assert shared_double.violations == []
    assert [each.process.returncode for each in servers] == [0, 0]


def test_a_reading_server_says_so_ends_when_told_and_keeps_its_secret_to_itself(
    environment: dict[str, str], tmp_path: Path, sqlite_url: str
) -> None:
    from spell_billing.ledger.ledger import Ledger  # noqa: PLC0415
    from spell_billing.settings.databases import parse_database_url  # noqa: PLC0415

    with Ledger(parse_database_url(sqlite_url, setting="DATABASE_URL")):
        pass
    with server(environment, tmp_path, "--read-only") as reading:
        assert reading.first_line.rstrip().endswith(" (read-only)")
        assert reading.bill("2025-01").status == 403
        assert reading.ask("GET", "/health", secret=None).json == {"status": "ok"}
        taken = subprocess.run(
            [str(BINARIES / "spell-billing"), "serve", "--port", str(reading.port)],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        children = psutil.Process(reading.process.pid).children(recursive=True)
        environments = [child.environ() for child in children]

    assert taken.returncode == 1
    assert f"Cannot listen on 127.0.0.1:{reading.port}" in taken.stderr
    assert environments, "Dagster's code server runs in a process of its own"
    assert all(SECRET not in each.values() for each in environments)
    assert psutil.wait_procs(children, timeout=20)[1] == [], "nothing is left behind"
    log = (tmp_path / "serve.log").read_text()
    assert SECRET not in log
    assert '"action":null,"method":"GET","path":"/health","status":200' in log
