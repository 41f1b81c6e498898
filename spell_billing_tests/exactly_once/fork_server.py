"""A process with everything imported and no threads: each billing run is a fork of it, ready to be killed.

It reads JSON lines. `{"run": {...}}` forks a child in its own process group and answers `{"pid": ...}`;
`{"wait": pid}` answers `{"status": ..., "told": ...}` (negative for a signal) when it has ended;
`{"warm": {...}}` bills in this process, so that the children find caches filled and late imports done.
"""

import gc
import json
import os
import signal
import sys
import threading
from typing import Any

from sqlalchemy.engine.default import DefaultDialect

from spell_billing.core.errors import SpellBillingError
from spell_billing_tests.exactly_once.billing import Run, bill
from spell_billing_tests.kept_work import keep_work


def _kill_at_commit(number: int, *, after: bool) -> None:
    commit = DefaultDialect.do_commit
    seen = 0

    def do_commit(dialect: DefaultDialect, connection: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == number and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        commit(dialect, connection)  # type: ignore[no-untyped-call] # SQLAlchemy's own gap
        if seen == number and after:
            os.kill(os.getpid(), signal.SIGKILL)

    DefaultDialect.do_commit = do_commit  # type: ignore[method-assign] # the process lives for one run


def _child(run: Run, result: int) -> None:
    os.setsid()
    # It lives for a moment, and shares the memory of the process it is forked from.
    gc.disable()
    status = 1
    try:
        if run.kill_at_commit is not None:
            _kill_at_commit(run.kill_at_commit, after=run.kill_after)
        answer: dict[str, Any]
        try:
            answer = {"unfinished": bill(run).unfinished, "error": None}
        except SpellBillingError as error:
            answer = {"unfinished": {}, "error": f"{type(error).__name__}: {error}"}
        os.write(result, json.dumps({**answer, "told": run.told}).encode())
        status = 0
    finally:
        os._exit(status)


def main() -> None:
    """Serve until standard input ends."""
    keep_work()
    results: dict[int, int] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "run" in request:
            read, write = os.pipe()
            pid = os.fork()
            if not pid:
                os.close(read)
                _child(Run(**request["run"]), write)
            os.close(write)
            results[pid] = read
            answer: dict[str, Any] = {"pid": pid}
        elif "warm" in request:
            bill(Run(**request["warm"]))
            answer = {"threads": threading.active_count()}
        else:
            pid = request["wait"]
            with os.fdopen(results.pop(pid), "rb") as result:
                text = result.read()
            _, status = os.waitpid(pid, 0)
            answer = {"status": os.waitstatus_to_exitcode(status), **json.loads(text or "{}")}
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
