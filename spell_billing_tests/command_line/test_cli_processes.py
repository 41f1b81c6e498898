"""How commands end: a killed `bill`, `stripe-double` when it is told to, and every process at its end."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest

from spell_billing.stripe_double import RequestRecord

BILL = ("bill", "--month", "2025-03")
ENDING = """
import atexit, sys, threading
import click
from spell_billing import cli

class Loaded:
    def __del__(self):
        print("freed")

def body():
    atexit.register(print, "the handlers")
    threading.Thread(target=lambda: (threading.main_thread().join(), print("the threads"))).start()
    print("the command")
    ENDS

loaded = Loaded()
cli.main = click.command()(body)
cli.run()
"""


@pytest.mark.parametrize("operation", ["invoices.create", "invoices.finalize"])
def test_a_killed_bill_is_taken_up_by_the_next_one_which_marks_its_run_failed(
    make_shop: Callable[..., Any], operation: str
) -> None:
    shop = make_shop("sqlite", ready=True)
    shop.accounts("user-0001")
    shop.calls("2025-03", ("user-0001", 100))
    started: list[subprocess.Popen[bytes]] = []

    def kill(_: RequestRecord) -> None:
        os.kill(started[0].pid, signal.SIGKILL)

    # Stripe has taken the request, and nobody is left to hear of it.
    shop.double.arm("none", operation=operation, after_effect=kill)
    with (
        (shop.home / "killed.log").open("wb") as log,
        subprocess.Popen(shop.command(*BILL), env=shop.environment, stdout=log, stderr=log) as process,
    ):
        started.append(process)
        assert process.wait(timeout=120) == -signal.SIGKILL
    with dg.DagsterInstance.from_config(str(shop.home / "dagster")) as instance:
        (died,) = instance.get_runs()
        assert died.status is dg.DagsterRunStatus.STARTED

        again = shop.run(*BILL)

        assert again.returncode == 0, again.stderr
        assert f"Run {died.run_id} had died; marked as failed." in again.stderr
        statuses = {run.run_id: run.status.value for run in instance.get_runs()}
    assert statuses.pop(died.run_id) == "FAILURE"
    assert list(statuses.values()) == ["SUCCESS"]
    assert [(each.total_cents, each.status) for each in shop.double.invoices()] == [(100, "paid")]
    assert shop.double.violations == []


def test_the_stripe_double_runs_as_a_command_and_keeps_its_state(make_shop: Callable[..., Any]) -> None:
    shop = make_shop("sqlite", ready=True)
    state = shop.home / "stripe.json"
    command = shop.command("stripe-double", "--port", "0", "--state", str(state), "--auto-create-customers")
    environment = {**shop.environment, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(3)]
            base = lines[1].strip().removeprefix("STRIPE_API_BASE=")
            shop.execute("INSERT INTO billing_accounts VALUES ('user-0001', 'cus_1', 'usd')")
            shop.calls("2025-03", ("user-0001", 100))
            taken = shop.run("stripe-double", "--port", base.rpartition(":")[2])
            billed = shop.run(*BILL, STRIPE_API_BASE=base)
            with urllib.request.urlopen(f"{base}/_double/state") as answer:  # noqa: S310 - our own address
                summary = json.load(answer)
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0

    assert lines[2].strip() == "STRIPE_API_KEY=sk_test_any"
    assert billed.returncode == 0, billed.stderr
    assert '"paid": 1' in json.dumps(summary)
    assert taken.returncode == 1
    assert "Cannot listen on" in taken.stderr
    assert "Choose another --port." in taken.stderr
    assert state.stat().st_size > 0


@pytest.mark.parametrize(
    ("ends", "status"), [("pass", 0), ("sys.exit(3)", 3), ("raise RuntimeError('not foreseen')", 1)]
)
def test_a_process_ends_with_all_that_is_left_to_do_but_does_not_free_what_it_loaded(
    ends: str, status: int
) -> None:
    code = ENDING.replace("ENDS", ends)

    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )

    assert ended.stdout.splitlines() == ["the command", "the threads", "the handlers"]
    assert ended.returncode == status
    assert ("not foreseen" in ended.stderr) == (status == 1)
