"""What a person at a terminal sees while a month is billed."""

import fcntl
import os
import re
import struct
import subprocess
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event
from typing import Any

import pytest

from spell_billing.stripe_double import RequestRecord

ROWS, COLUMNS = 40, 120
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@contextmanager
def in_a_terminal(command: list[str], environment: dict[str, str]) -> Iterator[Iterator[str]]:
    """Run a command on a terminal of its own; give what it writes, as it comes, without control sequences."""
    ours, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    with (
        os.fdopen(ours, "rb", buffering=0) as screen,
        subprocess.Popen(command, env=environment, stdin=its, stdout=its, stderr=its) as process,
    ):
        os.close(its)

        def written() -> Iterator[str]:
            # Linux ends a terminal that nobody writes to any more by an error.
            with suppress(OSError):
                while read := screen.read(65536):
                    yield _CONTROL.sub("", read.decode(errors="replace"))

        yield written()
        assert process.wait(timeout=120) == 0


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_bars_show_rows_and_invoices_with_their_pace_while_the_month_is_billed(
    make_shop: Callable[..., Any], backend: str
) -> None:
    shop = make_shop(backend)
    users = [f"user-{number:04}" for number in range(20)]
    shop.accounts(*users)
    shop.calls("2025-03", *[(user, 100) for user in users for _ in range(3)])
    frozen, in_time = Event(), []

    def wait_for_the_bar(_: RequestRecord) -> None:
        in_time.append(frozen.wait(timeout=60))

    shop.double.arm("none", operation="invoices.create", after_effect=wait_for_the_bar)
    command = shop.command("bill", "--month", "2025-03")
    with in_a_terminal(command, {**shop.environment, "TERM": "xterm"}) as written:
        seen = ""
        for text in written:
            seen += text
            if re.search(r"rows frozen .*━ 60/60 .*\d/s", seen):
                frozen.set()

    assert in_time == [True]
    assert re.search(r"invoices .*━ 20/20 .*\d/s", seen), seen
    # The log's lines would tear the bars apart.
    assert "STEP_START" not in seen
