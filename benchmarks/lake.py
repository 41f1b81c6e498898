"""Freezing a month that an engine adds up over a folder of Parquet: DuckDB, and a small Apache Spark cluster.

Both ways of an engine do their work once before it is timed, in the same process and session: a JVM compiles
what it has run often, and starting a session is no part of what grows with the calls.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import click

from benchmarks import freeze
from benchmarks.generator import SEED, Size, batches
from benchmarks.measure import interleaved, run_way
from benchmarks.report import Figure, Kind

_GIB = 1 << 30
_PEAK_TARGET_BYTES = {"DuckDB": 2 * _GIB, "Spark": 2 * _GIB}
"""The engine's own limit (2 GB of DuckDB's memory, 1 GB of heap of Spark's driver), and what is beside it."""
_TARGET = {"DuckDB": 12.0, "Spark": 10.0}
"""A freeze reads the month three times, hashes each row, and groups by id; the floor does none of it."""
_CLUSTER = {"SPARK_LOCAL_IP": "127.0.0.1"}
_SESSION = {"spark.executor.memory": "1g", "spark.driver.memory": "1g"}
_SUMS = "(SELECT user_id, count(*) AS calls, sum(cost_cents) AS cost FROM {} GROUP BY user_id) AS users"
_OF_SUMS = "SELECT count(*), max(calls), max(cost) FROM "
"""So that an engine leaves out no sum that nobody looks at."""


def fill(folder: str, rows: int, users: int) -> Callable[[], None]:
    """Prepare to write the month's rows as Parquet files of a million rows each."""
    import numpy as np  # noqa: PLC0415 - not into the parent's memory
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    random = np.random.default_rng(int(SEED * 100))
    names = pa.array([f"user-{number:07d}" for number in range(users)])
    place = Path(folder) / "usage_counters"

    def act() -> None:
        place.mkdir()
        for number, batch in zip(count(), batches(random, names, rows), strict=False):
            pq.write_table(pa.Table.from_batches([batch]), place / f"part-{number:04}.parquet")

    return act


def ours(url: str, folder: str) -> Callable[[], dict[str, Any]]:
    """Prepare to freeze the month, warm."""
    os.environ.update(_CLUSTER)
    return _warm(freeze.ours(url, folder))


def duckdb_group_by(url: str) -> Callable[[], dict[str, Any]]:
    """Prepare DuckDB's own GROUP BY of the same files, warm."""
    import duckdb  # noqa: PLC0415 - not into the parent's memory

    files = f"read_parquet('{url.removeprefix('duckdb://')}/usage_counters/*.parquet')"

    def act() -> dict[str, Any]:
        ((users, *_),) = duckdb.connect().execute(_OF_SUMS + _SUMS.format(files)).fetchall()
        return {"users": users}

    return _warm(act)


def spark_group_by(url: str) -> Callable[[], dict[str, Any]]:
    """Prepare Spark's own GROUP BY of the same files, warm, in a session like ours."""
    from pyspark.sql import SparkSession  # noqa: PLC0415 - only where there is Java

    from spell_billing.settings.lakes import LakeUrl, parse_usage_url  # noqa: PLC0415
    from spell_billing.usage.lake_engines import open_engine  # noqa: PLC0415

    os.environ.update(_CLUSTER)
    place = parse_usage_url(url, setting="USAGE_DATABASE_URL")
    if not isinstance(place, LakeUrl):
        raise TypeError(url)
    with open_engine(place):
        session = SparkSession.active()

    def act() -> dict[str, Any]:
        files = session.read.parquet(f"{dict(place.options)['folder']}/usage_counters")
        ((users, *_),) = session.sql(_OF_SUMS + _SUMS.format("{files}"), files=files).collect()
        return {"users": users}

    return _warm(act)


def measure(folder: Path, size: Size, repeats: int) -> Iterator[Figure]:
    """Measure both engines; Spark where there is Java."""

    def figure(engine: str, url: str) -> Figure:
        runs = interleaved(
            repeats,
            {
                "floor": lambda: run_way(f"lake:{engine.lower()}_group_by", url=url),
                "ours": lambda: run_way("lake:ours", url=url, folder=str(folder)),
            },
        )
        return Figure(
            "lake",
            f"Freeze of the sums, {engine}, {what}",
            "its own GROUP BY",
            runs["floor"].seconds,
            runs["ours"].seconds,
            kind=Kind.RATIO,
            target=_TARGET[engine],
            peak_bytes=runs["ours"].peak_bytes,
            peak_target_bytes=_PEAK_TARGET_BYTES[engine],
        )

    what = f"{size.rows / 1e6:g} M rows, {size.users:,} users, Parquet"
    with tempfile.TemporaryDirectory(dir=folder) as place, ExitStack() as stack:
        run_way("lake:fill", folder=place, rows=size.rows, users=size.users)
        yield figure("DuckDB", f"duckdb://{place}")
        if shutil.which("java") is None:
            click.echo("Left out: Apache Spark, because no Java is installed here.")
            return
        from spell_billing_tests.usage.spark_cluster import running_cluster, session_options  # noqa: PLC0415

        workers = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
        master = stack.enter_context(running_cluster(workers, settings=_CLUSTER, memory="1200m"))
        url = f"spark://{master}?{session_options(_SESSION)}&folder={place}"
        yield figure("Spark", url)


def _warm(act: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    act()
    return act
