"""Runs `erase-user` again and again, each time killed one step further, until a run ends by itself.

Steps are requests to Stripe, files that are renamed or removed, and transactions that are committed: a run is
killed before the next of them. Each run is a process of its own, forked from this one. Prints how many were
killed.
"""

import os
import signal
import sys
from typing import Any

import sqlalchemy as sa

from spell_billing.cli import main
from spell_billing.invoicing.gateway import Gateway
from spell_billing_tests.command_line.fork_server import import_all

_MOST = 200


def run(user: str, limit: int) -> None:
    """Erase the user in this process, killed before the step after `limit`."""
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps > limit:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event: str, _: tuple[Any, ...]) -> None:
        if event in {"os.rename", "os.remove"}:
            step()

    send = Gateway.send

    async def sent(*arguments: Any, **named: Any) -> Any:
        step()
        return await send(*arguments, **named)

    sys.addaudithook(audit)
    sa.event.listen(sa.Engine, "commit", lambda _: step())
    Gateway.send = sent  # type: ignore[method-assign]
    main(["erase-user", user], standalone_mode=False)


def fork(user: str, limit: int) -> int:
    """Run in a child; give how it ended, as `os.waitpid` does."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        run(user, limit)
        sys.stdout.flush()
        os._exit(0)
    finally:
        os._exit(1)


def all_runs(user: str) -> int:
    """Give how many runs were killed before one ended by itself."""
    for limit in range(_MOST):
        if not os.WIFSIGNALED(fork(user, limit)):
            return limit
    raise SystemExit("every run was killed")


if __name__ == "__main__":
    import_all()
    print(all_runs(sys.argv[1]))  # noqa: T201
