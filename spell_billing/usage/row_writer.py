"""Writes frozen rows to one Parquet file, in a thread beside the one that reads them, in bounded memory."""

import hashlib
import io
import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from spell_billing.usage.amounts import exact_add, exact_sum
from spell_billing.usage.contract import FrozenFile, OnProgress, Totals
from spell_billing.usage.disk import sync_file
from spell_billing.usage.tables import require_text

_WAITING_BATCHES = 3


def write_rows(
    path: Path,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    *,
    shape: Callable[[pa.RecordBatch], pa.Table],
    on_progress: Callable[[int], None] | None = None,
) -> tuple[FrozenFile, Totals]:
    """Write batches to a new Parquet file and sync it to disk.

    Args:
        path: The file.
        schema: What `shape` returns.
        batches: The rows as read. A few of them wait while the ones before are written.
        shape: Turns a batch as read into a table as written; runs in the writing thread.
        on_progress: Called in the writing thread with the rows written so far.

    Returns:
        The file, and what was written into it.
    """
    calls, cost_cents = 0, Decimal(0)

    def write(batch: pa.RecordBatch) -> None:
        nonlocal calls, cost_cents
        table = shape(batch)
        if table.num_rows == 0:
            return
        require_text(table)
        parquet.write_table(table)
        calls += table.num_rows
        for chunk in table.column("cost_cents").chunks:
            cost_cents = exact_add(cost_cents, exact_sum(chunk))
        if on_progress is not None:
            on_progress(calls)

    with _HashedFile(io.FileIO(path, "x")) as file:
        with (
            pq.ParquetWriter(file, schema, **_encoding(schema)) as parquet,
            ThreadPoolExecutor(1, thread_name_prefix="row-writer") as writer,
        ):
            waiting: deque[Future[None]] = deque()
            try:
                for batch in batches:
                    waiting.append(writer.submit(write, batch))
                    if len(waiting) > _WAITING_BATCHES:
                        waiting.popleft().result()
                for each in waiting:
                    each.result()
            finally:
                writer.shutdown(cancel_futures=True)
        file.flush()
        os.fsync(file.fileno())
    return FrozenFile(path.name, file.sha256.hexdigest(), calls), Totals(calls, cost_cents)


def counted(rows: int, on_progress: OnProgress | None) -> Callable[[int], None] | None:
    """Say that a month has so many rows; return what takes how many of them are written."""
    if on_progress is None:
        return None
    on_progress(0, rows)
    return lambda written: on_progress(written, rows)


class _HashedFile(io.BufferedWriter):
    """Hashes what is written, so that the file need not be read again for it."""

    def __init__(self, raw: io.FileIO) -> None:
        super().__init__(raw)
        self.sha256 = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return super().write(data)


def finished_file(path: Path, rows: int) -> FrozenFile:
    """Sync a finished file to disk and return its name, hash and row count."""
    sync_file(path)
    with path.open("rb") as file:
        return FrozenFile(path.name, hashlib.file_digest(file, "sha256").hexdigest(), rows)


def _encoding(schema: pa.Schema) -> dict[str, object]:
    # Rising ids and times, and small amounts, shrink to a third as deltas; Parquet keeps decimals of up to 18
    # digits as integers, so they take part. Compression after that gains nothing, nor does it on uuids. A
    # dictionary of users halves the file, and costs as much CPU as everything else in this thread together.
    deltas = {
        field.name: "DELTA_BINARY_PACKED"
        for field in schema
        if pa.types.is_integer(field.type)
        or pa.types.is_timestamp(field.type)
        or pa.types.is_decimal64(field.type)
    }
    return {
        "compression": {field.name: "lz4" if pa.types.is_string(field.type) else "none" for field in schema},
        "use_dictionary": False,
        "column_encoding": deltas,
        "store_decimal_as_integer": True,
        # Least and greatest user or cost of a row group help nobody to skip it.
        "write_statistics": ["id", "created_at"],
    }
