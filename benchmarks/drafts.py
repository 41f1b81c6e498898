"""Drafts to the ledger, made and written, against the database's own copying of the same rows."""

import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path

import psycopg

from benchmarks.databases import Server
from benchmarks.measure import Run, run_way
from benchmarks.months import make_month
from benchmarks.report import Figure, Kind

_MIB = 1 << 20
_TABLES = ("ledger_invoices",)
TARGET_SECONDS = 3.0
LARGE_PEAK_BYTES = 1536 * _MIB


def measure(server: Server, folder: Path, users: int, repeats: int, *, large: bool = False) -> list[Figure]:
    """Measure drafting a month of so many users on both databases; `large` has a target of memory only."""
    figures = []
    for backend in ("postgresql", "sqlite"):
        runs, floors = [], []
        for _ in range(repeats):
            url = make_month(server, folder, backend, users)
            with tempfile.TemporaryDirectory(dir=folder) as store:
                run_way("months:freeze_and_aggregate", url=url, store=store)
                runs.append(run_way("months:draft", url=url, store=store))
            floors.append(copy_rows(url).seconds)
        figures.append(
            Figure(
                "drafts",
                f"{users:,} drafts into the ledger, {backend}",
                "INSERT ... SELECT of the same rows",
                min(floors),
                min(run.seconds for run in runs),
                kind=Kind.SHOWN if large else Kind.AT_MOST,
                target=TARGET_SECONDS,
                peak_bytes=max(run.peak_bytes for run in runs),
                peak_target_bytes=LARGE_PEAK_BYTES if large else 0,
            )
        )
    return figures


def copy_rows(url: str) -> Run:
    """Have the database copy the ledger's rows into equal tables, indexes included, in one transaction."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            for table in _TABLES:
                for (definition,) in connection.execute(
                    "SELECT sql FROM sqlite_schema WHERE tbl_name = ? AND type IN ('table', 'index') "
                    "AND sql NOT NULL",
                    (table,),
                ).fetchall():
                    connection.execute(definition.replace(table, f"copy_of_{table}"))
            connection.commit()
            began = time.perf_counter()
            for table in _TABLES:
                connection.execute(f"INSERT INTO copy_of_{table} SELECT * FROM {table}")
            connection.commit()
            return Run(time.perf_counter() - began, 0.0, 0)
    with psycopg.connect(url) as connection:
        for table in _TABLES:
            connection.execute(f"CREATE TABLE copy_of_{table} (LIKE {table} INCLUDING ALL)")
        connection.commit()
        began = time.perf_counter()
        for table in _TABLES:
            connection.execute(f"INSERT INTO copy_of_{table} OVERRIDING SYSTEM VALUE SELECT * FROM {table}")
        connection.commit()
        return Run(time.perf_counter() - began, 0.0, 0)
