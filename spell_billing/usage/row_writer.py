"""Writes frozen rows to one Parquet file, in a thread of its own and in bounded memory."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from spell_billing.core import money
from spell_billing.core.errors import IntegrityError
from spell_billing.core.month import Month
from spell_billing.usage.amounts import exact_sum
from spell_billing.usage.contract import OnProgress
from spell_billing.usage.disk import HashedFile
from spell_billing.usage.frozen import FrozenFile, Totals
from spell_billing.usage.tables import require_text

ROWS_FILE = "rows.parquet"

_WAITING_BATCHES = 4


@dataclass(frozen=True, slots=True)
class FrozenRows:
    """A month's rows, or sums of them, as they were written: see `Manifest`."""

    file: FrozenFile
    frozen: Totals
    control: Totals
    cost_scale: int
    fingerprint: Decimal | None = None


class RowWriter:
    """Takes batches from any thread, shapes and writes them in its own. A context manager.

    Args:
        path: The Parquet file to write.
        schema: What `shape` returns.
        shape: Turns a batch as read into a table as written; runs in the writer's thread.
        on_progress: Called at once, and in the writer's thread; `expected` is how many rows there are.

    Once the context is left, `totals` has what was written, and `file` the file, synced to disk.
    """

    file: FrozenFile

    def __init__(
        self,
        path: Path,
        schema: pa.Schema,
        *,
        shape: Callable[[pa.RecordBatch], pa.Table],
        on_progress: OnProgress | None = None,
        expected: int = 0,
    ) -> None:
        self._shape = shape
        self._report: OnProgress = on_progress or (lambda _written, _expected: None)
        self._expected = expected
        self._sink = HashedFile(path)
        self._writer = pq.ParquetWriter(self._sink, schema, **_encoding(schema))
        self._room = threading.Semaphore(_WAITING_BATCHES)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="row-writer")
        self._error: BaseException | None = None
        self.totals = Totals(0, Decimal(0))

    def put(self, batch: pa.RecordBatch) -> None:
        """Hand over a batch; wait while too many are waiting.

        Raises:
            Exception: what stopped the writer, or a reader beside this one.
        """
        self._room.acquire()
        if self._error is not None:
            self._room.release()
            raise self._error
        self._pool.submit(self._write, batch)

    def cancel(self) -> None:
        """Make every further `put` fail, so that readers beside a failed one stop."""
        self._error = self._error or RuntimeError(
            "the writer was cancelled: another reader failed, or a person interrupted"
        )

    def __enter__(self) -> Self:
        self._report(0, self._expected)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()
        try:
            self._writer.close()
            self._sink.close()
            if error is None and self._error is None:
                self.file = self._sink.finished(self.totals.calls)
        except (OSError, pa.ArrowException) as failed:
            self._error = self._error or failed
        if error is None and self._error is not None:
            raise self._error

    def _write(self, batch: pa.RecordBatch) -> None:
        try:
            if self._error is None and len(table := self._shape(batch)):
                require_text(table)
                self._writer.write_table(table)
                self._count(table)
        except BaseException as error:  # noqa: BLE001 - carried to the thread that puts
            self._error = error
        finally:
            self._room.release()

    def _count(self, table: pa.Table) -> None:
        costs = [exact_sum(chunk) for chunk in table.column("cost_cents").chunks]
        calls = self.totals.calls + table.num_rows
        self.totals = Totals(calls, money.exact_sum(self.totals.cost_cents, *costs))
        self._report(calls, self._expected)


def require_equal_totals(month: Month, *, frozen: Totals, control: Totals) -> None:
    """Refuse frozen rows whose number or sum is not the database's own: the first proof of a freeze.

    Raises:
        IntegrityError: naming both.
    """
    if frozen != control:
        raise IntegrityError(
            f"{month}: {frozen.calls} rows of {frozen.cost_cents:f} cents were read, but the database counts "
            f"{control.calls} rows of {control.cost_cents:f} cents in the same snapshot.",
            remedy="Nothing was frozen. Run it again; if it persists, do not bill this month before it is "
            "known whether the reading code or the database is wrong.",
        )


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
        # Items are few: each value once, and a small number for each row.
        "use_dictionary": [name for name in schema.names if name == "item"] or False,
        "column_encoding": deltas,
        "store_decimal_as_integer": True,
        # Least and greatest user or cost of a row group skip nothing.
        "write_statistics": ["id", "created_at"],
    }
