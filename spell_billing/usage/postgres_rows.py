"""Counts a month's rows in PostgreSQL and streams them into Parquet, by connections that share a snapshot."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from spell_billing.core.month import Month
from spell_billing.usage.amounts import amount_type, as_decimal
from spell_billing.usage.contract import OnProgress
from spell_billing.usage.postgres_snapshot import Snapshot, cancel
from spell_billing.usage.postgres_sql import CostForm, Stretch, UsageSql, stretches
from spell_billing.usage.row_writer import RowWriter

T = TypeVar("T")


@dataclass(frozen=True)
class MonthRows:
    """A month's rows in a snapshot. Each reader counts and reads its own stretch of time.

    The same one counts and reads it: a server process that reads pages for the first time pays for that.
    """

    readers: Sequence[Snapshot]
    sql: UsageSql
    month: Month

    def totals(self, *, every_row: bool) -> list[dict[str, Any]]:
        """Count and sum each stretch in PostgreSQL; see `UsageSql.totals`."""

        def count(reader: Snapshot, stretch: Stretch) -> dict[str, Any]:
            query = self.sql.totals(stretch, every_row=every_row)
            # Several readers are the workers: each one's own would take the processors from the others.
            if len(self.readers) > 1:
                reader.execute("SET LOCAL max_parallel_workers_per_gather = 0")
            (row,) = reader.table(query).to_pylist()
            reader.execute("SET LOCAL max_parallel_workers_per_gather = DEFAULT")
            return dict(row)

        return self._each(count)

    def write(
        self, path: Path, form: CostForm, on_progress: OnProgress | None, *, expected: int
    ) -> RowWriter:
        """Write the billable ones to a Parquet file; return the writer, which has the file and its totals."""
        schema = self._written_schema(form)

        def shape(batch: pa.RecordBatch) -> pa.Table:
            return _shape(batch, schema, form)

        with RowWriter(path, schema, shape=shape, on_progress=on_progress, expected=expected) as writer:

            def read(reader: Snapshot, stretch: Stretch) -> None:
                with reader.stream(self.sql.rows(stretch, form)) as batches:
                    for batch in batches:
                        writer.put(batch)

            self._each(read, stop=writer.cancel)
        return writer

    def _each(
        self, act: Callable[[Snapshot, Stretch], T], *, stop: Callable[[], None] = lambda: None
    ) -> list[T]:
        """Do something with each reader and its stretch, at the same time.

        What fails first is raised, and the other readers are stopped; also when a person interrupts.
        """
        parts = stretches(self.month, len(self.readers))
        with ThreadPoolExecutor(len(parts), thread_name_prefix="row-reader") as pool:
            running: list[Future[T]] = []
            try:
                for reader, part in zip(self.readers, parts, strict=True):
                    running.append(pool.submit(act, reader, part))
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
        cost = amount_type(form.scale, as_text=form.as_text)
        return pa.schema(
            [
                pa.field("id", _plain(read.field("id").type), nullable=self.sql.may_lack_ids),
                pa.field("user_id", _plain(read.field("user_id").type), nullable=False),
                pa.field("cost_cents", cost, nullable=False),
                pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
            ]
        )


def _plain(kind: pa.DataType) -> pa.DataType:
    # Versions of the driver label uuids, the only type of ours that travels as bytes, in different ways.
    return pa.uuid() if isinstance(kind, pa.BaseExtensionType) else kind


def _shape(batch: pa.RecordBatch, schema: pa.Schema, form: CostForm) -> pa.Table:
    cost, kind = batch.column("cost_cents"), schema.field("cost_cents").type
    # A cast raises where a digit would be lost.
    cost = cost.cast(kind) if form.as_text else as_decimal(cost, kind)
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
