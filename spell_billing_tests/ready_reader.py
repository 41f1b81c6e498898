"""A process that has loaded SQLite's reader: each reader is a fork of it, and need not load Arrow again.

The pytest process asks it over a socket for a reader with pipes of its own. As a script it is that process.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Self

_LONGEST_REQUEST = 65_536


class ReadyReader:
    """Stands for the `Popen` of one reader, as far as `sqlite_process` uses it."""

    def __init__(self, address: str, command: list[str], complaints: IO[bytes]) -> None:
        questions, ours = os.pipe()
        theirs, answers = os.pipe()
        self.stdin, self.stdout = os.fdopen(ours, "wb"), os.fdopen(theirs, "rb")
        self.returncode: int | None = None
        self._command = command
        self._line = socket.socket(socket.AF_UNIX)
        try:
            self._line.connect(address)
            request = json.dumps(command[1:]).encode()
            socket.send_fds(self._line, [request], [questions, answers, complaints.fileno()])
        finally:
            os.close(questions)
            os.close(answers)
        self._pid = int.from_bytes(self._line.recv(4), "big")

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end: it tells its exit code, unless it was killed."""
        if self.returncode is None:
            self._line.settimeout(timeout)
            try:
                told = self._line.recv(1)
            except TimeoutError:
                raise subprocess.TimeoutExpired(self._command, timeout or 0) from None
            self.returncode = told[0] if told else -signal.SIGKILL
        return self.returncode

    def kill(self) -> None:
        """Kill it, if it has not ended."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stdout.close()
        with suppress(BrokenPipeError):
            self.stdin.close()
        self.wait()
        self._line.close()


@contextmanager
def ready_reader() -> Iterator[Callable[..., ReadyReader]]:
    """Start the process, and give what to call in place of `Popen`."""
    with tempfile.TemporaryDirectory(prefix="spell-billing-reader-") as folder:
        address = f"{folder}/socket"
        command = [sys.executable, __file__, address]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"

            def popen(command: list[str], *, stderr: IO[bytes], **_: Any) -> ReadyReader:
                return ReadyReader(address, command, stderr)

            yield popen


def _serve(line: socket.socket, read: Callable[[], None]) -> None:
    """Become the reader that is asked for."""
    request, descriptors, _, _ = socket.recv_fds(line, _LONGEST_REQUEST, 3)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    sys.argv = json.loads(request)
    line.sendall(os.getpid().to_bytes(4, "big"))
    status = 1
    try:
        read()
        status = 0
    except BaseException:  # noqa: BLE001 - as the interpreter does at its end
        traceback.print_exc()
    finally:
        with suppress(OSError):
            line.sendall(bytes([status]))
        os._exit(status)


def main() -> None:
    """Serve until standard input ends."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "spell_billing" / "usage"))
    from sqlite_reader import main as read  # type: ignore[import-not-found] # noqa: PLC0415

    assert threading.active_count() == 1, "a process with threads cannot be forked"
    # Nobody waits for the forks.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sys.argv[1])
    listener.listen(64)
    os.write(1, b"ready\n")
    while listener.fileno() in select.select([listener.fileno(), 0], [], [])[0]:
        line, _ = listener.accept()
        if not os.fork():
            listener.close()
            _serve(line, read)
        line.close()


if __name__ == "__main__":
    main()
