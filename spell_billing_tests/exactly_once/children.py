"""Billing runs in processes of their own, forked from a clean one."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from spell_billing_tests.exactly_once.billing import Run

_ROOT = Path(__file__).parents[2]


class Children:
    """Starts billing runs in child processes, each the leader of its own process group."""

    def __init__(self, server: "subprocess.Popen[str]") -> None:
        self._server = server
        self._warm_for: set[str] = set()

    @classmethod
    @contextmanager
    def serving(cls) -> Iterator[Self]:
        """Run the process that the children are forked from."""
        command = [sys.executable, "-m", "spell_billing_tests.exactly_once.fork_server"]
        environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        ) as server:
            yield cls(server)
            assert server.stdin is not None
            server.stdin.close()
            server.wait(30)

    def warm(self, run: Run) -> None:
        """Do a run in the process that is forked, once for each kind of database: children are then fast."""
        kind = run.database_url.partition(":")[0]
        if kind in self._warm_for:
            return
        self._warm_for.add(kind)
        assert self._ask({"warm": asdict(run)}) == {"threads": 1}, "a process with threads cannot be forked"

    def start(self, run: Run) -> int:
        """Start a run; give its process id, which is its process group's too."""
        pid: int = self._ask({"run": asdict(run)})["pid"]
        return pid

    def wait(self, pid: int) -> dict[str, Any]:
        """Wait for a run: `status` (negative: killed by that signal), `unfinished`, `error`, `told`."""
        return self._ask({"wait": pid})

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(f"{json.dumps(question)}\n")
        self._server.stdin.flush()
        answer: dict[str, Any] = json.loads(self._server.stdout.readline())
        return answer
