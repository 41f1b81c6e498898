"""`spell-billing metrics`: the text once, or served until it is ended."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def environment(sqlite_url: str, tmp_path: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": sqlite_url,
        "SPELL_BILLING_HOME": str(tmp_path),
        "PYTHONUNBUFFERED": "1",
    }


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "spell_billing", "metrics", *arguments]


def run(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(*arguments), env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def test_the_metrics_are_written_once(environment: dict[str, str]) -> None:
    done = run(environment, "--once")

    assert (done.returncode, done.stderr) == (0, "")
    assert "\nspell_billing_up 1.0\n" in done.stdout


def test_a_ledger_that_is_missing_is_one_clear_message(environment: dict[str, str], tmp_path: Path) -> None:
    done = run({**environment, "DATABASE_URL": f"sqlite:///{tmp_path / 'nothing.db'}"}, "--once")

    assert (done.returncode, done.stdout) == (1, "")
    assert "`spell-billing init-db` makes it" in done.stderr


def test_the_metrics_are_served_until_the_command_is_ended(environment: dict[str, str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process: Any
    with subprocess.Popen(
        command("--port", str(port)), env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == f"Metrics at http://127.0.0.1:{port}/metrics\n"
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
                assert answer.status == 200
                assert b"\nspell_billing_up 1.0\n" in answer.read()
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def test_a_port_that_is_taken_is_said(environment: dict[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run(environment, "--port", str(taken.getsockname()[1]))

    assert done.returncode == 1
    assert "Cannot listen on" in done.stderr
    assert "Traceback" not in done.stderr
