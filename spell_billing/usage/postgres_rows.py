"""Counts a month's rows in PostgreSQL and streams them into Parquet, by connections that share a snapshot."""

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from spell_billing.core.month import Month
from spell_billing.usage.amounts import (
    as_decimal,
    decimal_from_text,
    integer_amount_type,
    text_amount_type,
)
from spell_billing.usage.contract import FrozenFile, Totals
from spell_billing.usage.postgres_snapshot import Snapshot, cancel
from spell_billing.usage.postgres_sql import CostForm, Stretch, UsageSql, stretches
from spell_billing.usage.row_writer import RowWriter


@dataclass(frozen=True)
class MonthRows:
    """A month's rows in a snapshot. Each reader counts and reads its own stretch of time.

    The same one counts and reads it: a server process that reads pages for the first time pays for that.
    """

    readers: Sequence[Snapshot]
    sql: UsageSql
    month: Month

    def totals(self, *, every_row: bool) -> list[dict[str, Any]]:
        """Have PostgreSQL count and sum each stretch; see `UsageSql.totals`."""
        shared = len(self.readers) > 1

        def count(number: int, stretch: Stretch) -> dict[str, Any]:
            reader = self.readers[number]
            query = self.sql.totals(stretch, every_row=every_row)
            # The readers are the workers: each one's own would take the processors from the others.
            with reader.setting("max_parallel_workers_per_gather", "0") if shared else nullcontext():
                (row,) = reader.table(query).to_pylist()
            return dict(row)

        return self._each(count, threads="control")

    def write(
        self, path: Path, form: CostForm, on_progress: Callable[[int], None] | None
    ) -> tuple[FrozenFile, Totals]:
        """Write the billable ones to a Parquet file; give it with their number and sum, as written."""
        schema = self._written_schema(form)

        def shape(batch: pa.RecordBatch) -> pa.Table:
            return _shape(batch, schema, form)

        abreast = _Abreast(len(self.readers))
        with RowWriter(path, schema, shape=shape, on_progress=on_progress) as writer:

            def read(number: int, stretch: Stretch) -> None:
                try:
                    with self.readers[number].stream(self.sql.rows(stretch, form)) as batches:
                        for batch in batches:
                            writer.put(batch)
                            abreast.advance(number)
                finally:
                    abreast.leave(number)

            def stop() -> None:
                writer.cancel()
                abreast.stop()

            self._each(read, stop, threads="row-reader")
        return writer.file, writer.totals

    def _each(
        self, act: Callable[[int, Stretch], Any], stop: Callable[[], None] = lambda: None, *, threads: str
    ) -> list[Any]:
        """Do something for each reader at once: its number, and its stretch.

        What fails first is raised, and the other readers are stopped; also when a person interrupts.
        """
        parts = stretches(self.month, len(self.readers))
        with ThreadPoolExecutor(len(parts), thread_name_prefix=threads) as pool:
            running: list[Future[Any]] = []
            try:
                for number, part in enumerate(parts):
                    running.append(pool.submit(act, number, part))
                for ended in wait(running, return_when=FIRST_EXCEPTION).done:
                    ended.result()
                return [each.result() for each in running]
            except BaseException:
                # Here, because leaving the pool waits for its threads.
                stop()
                cancel(self.readers, running)
                raise

    def _written_schema(self, form: CostForm) -> pa.Schema:
        (whole,) = stretches(self.month, 1)
        read = self.readers[0].table(f"{self.sql.rows(whole, form)} LIMIT 0").schema
        cost = text_amount_type(form.scale) if form.as_text else integer_amount_type(form.scale)
        return pa.schema(
            [
                pa.field("id", _plain(read.field("id").type), nullable=self.sql.may_lack_ids),
                pa.field("user_id", _plain(read.field("user_id").type), nullable=False),
                pa.field("cost_cents", cost, nullable=False),
                pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
            ]
        )


class _Abreast:
    """Keeps readers abreast, so that none works alone at the end: the one ahead waits for the others."""

    def __init__(self, readers: int) -> None:
        self._moved = threading.Condition()
        self._batches = [0.0] * readers

    def advance(self, number: int) -> None:
        """Count a batch of a reader, and wait while it is more than one batch ahead of another."""
        with self._moved:
            self._batches[number] += 1
            self._moved.notify_all()
            self._moved.wait_for(lambda: self._batches[number] <= min(self._batches) + 1)

    def leave(self, number: int) -> None:
        """Let nobody wait for a reader any more."""
        with self._moved:
            self._batches[number] = math.inf
            self._moved.notify_all()

    def stop(self) -> None:
        """Let nobody wait at all."""
        for number in range(len(self._batches)):
            self.leave(number)


def _plain(kind: pa.DataType) -> pa.DataType:
    # Versions of the driver label uuids, the only type of ours that travels as bytes, in different ways.
    return pa.uuid() if isinstance(kind, pa.BaseExtensionType) else kind


def _shape(batch: pa.RecordBatch, schema: pa.Schema, form: CostForm) -> pa.Table:
    cost = batch.column("cost_cents")
    cost = decimal_from_text(cost, form.scale) if form.as_text else as_decimal(cost, form.scale)
    # Naive times mean UTC: the same microseconds, only labelled.
    moment = batch.column("created_at").cast(schema.field("created_at").type)
    columns = [_as_plain(batch.column("id")), _as_plain(batch.column("user_id")), cost, moment]
    return pa.Table.from_arrays(columns, schema=schema)


def _as_plain(column: pa.Array) -> pa.Array:
    if not isinstance(column, pa.ExtensionArray) or column.type == pa.uuid():
        return column
    return pa.ExtensionArray.from_storage(pa.uuid(), _as_fixed(column.storage, pa.uuid().storage_type))


def _as_fixed(column: pa.Array, kind: pa.FixedSizeBinaryType) -> pa.Array:
    """Relabel bytes of one length, without copying ten million of them one by one."""
    lengths = pc.min_max(pc.binary_length(column)).as_py()
    if column.type != pa.binary() or column.null_count or set(lengths.values()) != {kind.byte_width}:
        return column.cast(kind)
    _, offsets, data = column.buffers()
    (first,) = pa.Array.from_buffers(pa.int32(), 1, [None, offsets], offset=column.offset).to_pylist()
    return pa.Array.from_buffers(kind, len(column), [None, data.slice(first)])
