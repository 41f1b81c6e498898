"""Writes frozen rows to one Parquet file in a thread of its own, in bounded memory."""

import hashlib
import io
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from spell_billing.usage.amounts import exact_add, exact_sum
from spell_billing.usage.contract import FrozenFile, Totals
from spell_billing.usage.tables import require_text

_QUEUED_BATCHES = 3
_SYNC_BYTES = 32 << 20


class RowWriter:
    """Takes batches from any thread, shapes and writes them in its own. A context manager.

    Args:
        path: The Parquet file to write.
        schema: What `shape` gives.
        shape: Turns a batch as read into a table as written; runs in the writer's thread.
        on_progress: Called in the writer's thread with the rows written so far.
    """

    def __init__(
        self,
        path: Path,
        schema: pa.Schema,
        *,
        shape: Callable[[pa.RecordBatch], pa.Table],
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        self._path = path
        self._schema = schema
        self._shape = shape
        self._on_progress = on_progress
        self._queue: queue.SimpleQueue[pa.RecordBatch | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(_QUEUED_BATCHES)
        self._thread = threading.Thread(target=self._run, name="row-writer")
        self._error: BaseException | None = None
        self._cancelled = False
        self._ended = False
        self._sha256 = ""
        self._calls = 0
        self._cost_cents = Decimal(0)

    def put(self, batch: pa.RecordBatch) -> None:
        """Hand over a batch; waits while the queue is full.

        Raises:
            Exception: what stopped the writer, or a reader beside this one.
        """
        if self._error is not None:
            raise self._error
        if self._cancelled:
            raise RuntimeError("the writer was cancelled: another reader failed, or a person interrupted")
        self._room.acquire()
        self._queue.put(batch)

    def cancel(self) -> None:
        """Make every further `put` fail, so that readers beside a failed one stop."""
        self._cancelled = True

    @property
    def totals(self) -> Totals:
        """What was written, once the context is left."""
        return Totals(self._calls, self._cost_cents)

    @property
    def file(self) -> FrozenFile:
        """The file, synced to disk, once the context is left."""
        return FrozenFile(self._path.name, self._sha256, self._calls)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Needs no room: who is interrupted while waiting for it would leave the thread waiting for ever.
        self._queue.put(None)
        self._thread.join()
        if error is None and self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._write_all()
        except BaseException as error:  # noqa: BLE001 - carried to the thread that puts
            self._error = error
            # Readers blocked on a full queue must come back to see the error.
            while not self._ended:
                self._take()

    def _take(self) -> pa.RecordBatch | None:
        batch = self._queue.get()
        self._room.release()
        self._ended = batch is None
        return batch

    def _write_all(self) -> None:
        with _KeptFile(io.FileIO(self._path, "x")) as file:
            with pq.ParquetWriter(file, self._schema, **_encoding(self._schema)) as writer:
                while (batch := self._take()) is not None:
                    self._write(writer, self._shape(batch))
            file.sync()
            self._sha256 = file.sha256.hexdigest()

    def _write(self, writer: pq.ParquetWriter, table: pa.Table) -> None:
        if table.num_rows == 0:
            return
        require_text(table)
        writer.write_table(table)
        self._calls += table.num_rows
        for chunk in table.column("cost_cents").chunks:
            self._cost_cents = exact_add(self._cost_cents, exact_sum(chunk))
        if self._on_progress is not None:
            self._on_progress(self._calls)


class _KeptFile(io.BufferedWriter):
    """Hashes and syncs while more is written: afterwards the processors would wait for it, and the disk."""

    def __init__(self, raw: io.FileIO) -> None:
        super().__init__(raw)
        self.sha256 = hashlib.sha256()
        self._unsynced_bytes = 0
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="row-sync")
        self._syncing: Future[None] | None = None

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        written = super().write(data)
        self._unsynced_bytes += written
        if self._unsynced_bytes >= _SYNC_BYTES and (self._syncing is None or self._syncing.done()):
            self._wait()
            self._unsynced_bytes = 0
            self._syncing = self._disk.submit(os.fsync, self.fileno())
        return written

    def sync(self) -> None:
        """Have all of it on disk."""
        self.flush()
        self._wait()
        os.fsync(self.fileno())

    def close(self) -> None:
        self._disk.shutdown()
        super().close()

    def _wait(self) -> None:
        # A failure is told once for each open file: to the sync that meets it, not to the next one.
        if self._syncing is not None:
            self._syncing.result()
            self._syncing = None


def finished_file(path: Path, rows: int) -> FrozenFile:
    """Sync a finished file to disk and give its name, hash and row count."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FrozenFile(path.name, digest, rows)


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
