"""Freezing a month: against PostgreSQL's `COPY` to nowhere, and SQLite's own sums."""

import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.databases import Server
from benchmarks.generator import MONTH
from benchmarks.measure import Run, interleaved, run_command, run_way
from benchmarks.report import Figure, Kind

_MIB = 1 << 20
PEAK_TARGET_BYTES = 512 * _MIB
ROWS_QUERY = (
    "SELECT id, user_id, cost_cents, created_at FROM usage_counters "
    f"WHERE created_at >= '{MONTH.start}' AND created_at < '{MONTH.end}'"
)
_CHUNK_ROWS = 100_000


def copy_to_nowhere(server: Server, url: str) -> Run:
    """Have `psql` copy the month's rows to nowhere: the floor of all that reads them from PostgreSQL."""
    return run_command([server.psql, url, "-qc", f"COPY ({ROWS_QUERY}) TO STDOUT (FORMAT binary)"])


def ours(url: str, folder: str) -> Callable[[], dict[str, Any]]:
    """Prepare to freeze the month into a store of its own."""
    from spell_billing.settings.lakes import parse_usage_url  # noqa: PLC0415 - not into the parent's memory
    from spell_billing.usage.source import open_usage_source  # noqa: PLC0415
    from spell_billing.usage.store import UsageStore  # noqa: PLC0415

    source = open_usage_source(parse_usage_url(url, setting="USAGE_DATABASE_URL"))
    workplace = Path(tempfile.mkdtemp(dir=folder))

    def act() -> dict[str, Any]:
        frozen = UsageStore(workplace).freeze(source, MONTH)
        facts = {
            "rows": frozen.manifest.frozen.calls,
            "bytes": sum(path.stat().st_size for path in frozen.directory.iterdir()),
        }
        shutil.rmtree(workplace)
        return facts

    return act


def pandas_whole(url: str) -> Callable[[], dict[str, Any]]:
    """Prepare to read the month into one data frame and add it up per user, as the old service did."""
    import pandas as pd  # noqa: PLC0415 - only in the process that measures it
    import sqlalchemy as sa  # noqa: PLC0415

    from spell_billing.settings.databases import parse_database_url  # noqa: PLC0415

    engine = sa.create_engine(parse_database_url(url, setting="URL").sqlalchemy_url)

    def act() -> dict[str, Any]:
        with engine.connect() as connection:
            frame = pd.read_sql(sa.text(ROWS_QUERY), connection)
        return {"users": len(frame.groupby("user_id")["cost_cents"].agg(["count", "sum"]))}

    return act


def pandas_in_chunks(url: str) -> Callable[[], dict[str, Any]]:
    """Prepare to do the same a chunk at a time, with a cursor in the server."""
    import pandas as pd  # noqa: PLC0415
    import sqlalchemy as sa  # noqa: PLC0415

    from spell_billing.settings.databases import parse_database_url  # noqa: PLC0415

    engine = sa.create_engine(parse_database_url(url, setting="URL").sqlalchemy_url)

    def act() -> dict[str, Any]:
        with engine.connect().execution_options(stream_results=True) as connection:
            parts = [
                chunk.groupby("user_id")["cost_cents"].agg(["count", "sum"])
                for chunk in pd.read_sql(sa.text(ROWS_QUERY), connection, chunksize=_CHUNK_ROWS)
            ]
        return {"users": len(pd.concat(parts).groupby(level=0).sum())}

    return act


def group_by_in_sqlite(url: str) -> Callable[[], dict[str, Any]]:
    """Prepare to have SQLite itself add up the month per user."""
    path = url.removeprefix("sqlite:///")

    def act() -> dict[str, Any]:
        with closing(sqlite3.connect(path)) as connection:
            rows = connection.execute(
                "SELECT user_id, count(*), sum(cost_cents) FROM usage_counters "
                "WHERE created_at >= ? AND created_at < ? GROUP BY user_id",
                (f"{MONTH.start.date()}", f"{MONTH.end.date()}"),
            ).fetchall()
        return {"users": len(rows)}

    return act


def in_postgres(server: Server, url: str, folder: Path, what: str, *, target: float, repeats: int) -> Figure:
    """Measure freezing from a PostgreSQL database that holds the month."""
    runs = interleaved(
        repeats,
        {
            "floor": lambda: copy_to_nowhere(server, url),
            "ours": lambda: run_way("freeze:ours", url=url, folder=str(folder)),
        },
    )
    return Figure(
        "freeze",
        f"Freeze, PostgreSQL, {what}",
        "psql COPY to nowhere",
        runs["floor"].seconds,
        runs["ours"].seconds,
        kind=Kind.RATIO,
        target=target,
        peak_bytes=runs["ours"].peak_bytes,
        peak_target_bytes=PEAK_TARGET_BYTES,
    )


def naive_in_postgres(server: Server, url: str, what: str) -> list[Figure]:
    """Measure what one would write with pandas, once."""
    floor = copy_to_nowhere(server, url)
    return [
        Figure(
            "freeze",
            f"pandas, {name}, rows to users, {what}",
            "psql COPY to nowhere",
            floor.seconds,
            run.seconds,
            peak_bytes=run.peak_bytes,
        )
        for name, run in (
            ("whole", run_way("freeze:pandas_whole", url=url)),
            ("in chunks", run_way("freeze:pandas_in_chunks", url=url)),
        )
    ]


def in_sqlite(url: str, folder: Path, what: str, repeats: int) -> Figure:
    """Measure freezing from a SQLite file that holds the month."""
    runs = interleaved(
        repeats,
        {
            "floor": lambda: run_way("freeze:group_by_in_sqlite", url=url),
            "ours": lambda: run_way("freeze:ours", url=url, folder=str(folder)),
        },
    )
    return Figure(
        "freeze",
        f"Freeze, SQLite, {what}",
        "its own GROUP BY",
        runs["floor"].seconds,
        runs["ours"].seconds,
        kind=Kind.RATIO,
        target=1.5,
        peak_bytes=runs["ours"].peak_bytes,
        peak_target_bytes=PEAK_TARGET_BYTES,
    )
