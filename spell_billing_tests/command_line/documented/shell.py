"""A shell in which commands of the docs run as they are written, one after the other."""

import json
import re
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from spell_billing_tests.command_line.conftest import Forks, Shop
from spell_billing_tests.command_line.documented.pages import ROOT, documented
from spell_billing_tests.triggering.served import Running

PROGRAMS = Path(sys.executable).parent
LATER = {r"\b2026-": "2024-", r"\b2027-": "2099-"}
"""Months of the docs must be closed on the day of the test, and grants must not have expired."""
_STUB = f"""#!{sys.executable} -IS
import json, os, socket, sys
if sys.argv[1] in ("serve", "metrics", "stripe-double", "hash-secret"):
    os.execv({str(PROGRAMS / "spell-billing")!r}, ["spell-billing", *sys.argv[1:]])
with socket.create_connection(("127.0.0.1", int(os.environ["FORKS"]))) as asked, asked.makefile("rw") as talk:
    talk.write(json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]) + "\\n")
    talk.flush()
    code, stdout, stderr = json.loads(talk.readline())
sys.stdout.write(stdout)
sys.stderr.write(stderr)
sys.exit(code)
"""
"""`spell-billing` as a fork of a process that has everything imported; new where it must be."""


@contextmanager
def forks_by_port(forks: Forks) -> Iterator[int]:
    """Let programs of a shell ask for commands, at a port of this machine."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            arguments, environment, folder = json.loads(self.rfile.readline())
            done = forks.run(arguments, environment, Path(folder))
            self.wfile.write(f"{json.dumps([done.returncode, done.stdout, done.stderr])}\n".encode())

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


class Shell:
    """A folder like a clone of the repository, and an environment that `export` changes."""

    def __init__(self, shop: Shop, port: int) -> None:
        self.shop, self.folder = shop, shop.home
        for name in ("deploy", "docs", "examples", "scripts", "pyproject.toml", "workspace.yaml"):
            (self.folder / name).symlink_to(ROOT / name)
        (self.folder / ".venv").symlink_to(PROGRAMS.parent)
        stub = self.folder / "stubs" / "spell-billing"
        stub.parent.mkdir()
        stub.write_text(_STUB)
        stub.chmod(0o755)
        path = f"{stub.parent}:{PROGRAMS}:{shop.environment['PATH']}"
        sender = "Billing <billing@example.com>"
        own = {"PATH": path, "FORKS": str(port), "MAIL_FROM": sender, "TMPDIR": str(self.folder)}
        self.environment = {**shop.environment, **own}
        self.here: dict[str, str] = dict(LATER)
        """What stands in the docs for something of the reader's, as patterns, and what it is here."""

    def run(
        self, command: str, here: Mapping[str, str] | None = None, *, ends: int = 0, stdin: str = ""
    ) -> str:
        """Run a command of the docs, and return its output; it must end with the exit code `ends`."""
        kept = self.folder / "environment"
        script = f'{self._as_here(command, here)}\nenv -0 >"{kept}"'
        done = subprocess.run(
            ["sh", "-aeuc", script],  # noqa: S607 - any POSIX shell, as of a reader
            cwd=self.folder,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        said = done.stdout + done.stderr
        assert done.returncode == ends, f"{command}\nended with {done.returncode}, not {ends}:\n{said}"
        # What psql goes on after, and still ends with 0.
        assert not re.search(r"Traceback|\bERROR: ", said), said
        if ends == 0:
            pairs = (pair.split("=", 1) for pair in kept.read_text().split("\0") if pair)
            self.environment = {name: value for name, value in pairs if name not in {"PWD", "OLDPWD", "_"}}
        return done.stdout

    @contextmanager
    def start(
        self, command: str, here: Mapping[str, str] | None = None, *, until: str = ""
    ) -> Iterator[Running]:
        """Run a command of the docs that lasts, and give it once it has said the words `until`."""
        script = f"exec {self._as_here(command, here)}"
        running = Running(["sh", "-aeuc", script], self.environment, self.folder)
        try:
            running.until(until)
            yield running
        finally:
            running.stop()

    def _as_here(self, command: str, here: Mapping[str, str] | None) -> str:
        assert command in documented(), f"No page gives the command: {command}"
        for what, instead in {**(here or {}), **self.here}.items():
            command = re.sub(what, instead, command)
        return command
