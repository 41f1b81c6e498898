"""Counts a month's rows in PostgreSQL and streams them into Parquet, by connections that share a snapshot."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from spell_billing.core.items import OTHER
from spell_billing.core.month import Month
from spell_billing.core.rate_cards import MOST_PLACES
from spell_billing.usage.amounts import amount_type, as_decimal
from spell_billing.usage.contract import OnProgress
from spell_billing.usage.frozen import PLAIN, Detail
from spell_billing.usage.postgres_parts import CostForm, Stretch, stretches
from spell_billing.usage.postgres_snapshot import Snapshot, cancel
from spell_billing.usage.postgres_sql import INTEGERS, UsageSql
from spell_billing.usage.row_writer import RowWriter
from spell_billing.usage.tables import BLANKS, text_scalar

T = TypeVar("T")

_COLUMNS = ("id", "user_id", "cost_cents", "created_at")
"""What every month's rows have; an item and a quantity may follow."""
_EMPTY, _OTHER = text_scalar(""), text_scalar(OTHER)


@dataclass(frozen=True)
class MonthRows:
    """A month's rows in a snapshot. Each reader counts and reads its own stretch of time.

    The same one counts and reads it: a server process that reads pages for the first time pays for that.
    """

    readers: Sequence[Snapshot]
    sql: UsageSql
    month: Month
    detail: Detail = PLAIN

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
                with reader.stream(self.sql.rows(stretch, form, self.detail)) as batches:
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
        row_id, user = self.sql.columns["id"].type, self.sql.columns["user_id"].type
        return pa.schema(
            [
                pa.field("id", _id_type(row_id), nullable=self.sql.may_lack_ids),
                pa.field("user_id", pa.uuid() if user == "uuid" else pa.string(), nullable=False),
                pa.field("cost_cents", amount_type(form.scale, as_text=form.as_text), nullable=False),
                pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
                *([pa.field("item", pa.string(), nullable=False)] if self.detail.items_by else []),
                *([pa.field("quantity", self._quantity_type())] if self.detail.has_quantity else []),
            ]
        )

    def _quantity_type(self) -> pa.DataType:
        return pa.decimal128(38, MOST_PLACES) if self.sql.has_numeric_quantity else pa.int64()


def _id_type(kind: str) -> pa.DataType:
    if kind in INTEGERS:
        return pa.int64()
    return pa.uuid() if kind == "uuid" else pa.string()


def _shape(batch: pa.RecordBatch, schema: pa.Schema, form: CostForm) -> pa.Table:
    cost, kind = batch.column("cost_cents"), schema.field("cost_cents").type
    # A cast raises where a digit would be lost.
    cost = cost.cast(kind) if form.as_text else as_decimal(cost, kind)
    # Naive times mean UTC: the same microseconds, only labelled.
    moment = batch.column("created_at").cast(schema.field("created_at").type)
    ids = [_as_written(batch.column(name), schema.field(name).type) for name in ("id", "user_id")]
    details = [
        _items(batch.column(name)) if name == "item" else batch.column(name).cast(schema.field(name).type)
        for name in schema.names[len(_COLUMNS) :]
    ]
    return pa.Table.from_arrays([*ids, cost, moment, *details], schema=schema)


def _items(values: pa.Array) -> pa.Array:
    """Trim items, and name those of blank ones, as `UsageSql.items` does."""
    # By byte: what is no text is refused later, with the row's id.
    trimmed = pc.ascii_trim(values, characters=BLANKS)
    return pc.fill_null(pc.if_else(pc.equal(trimmed, _EMPTY), _OTHER, trimmed), _OTHER)


def _as_written(ids: pa.Array, kind: pa.DataType) -> pa.Array:
    if kind != pa.uuid():
        return ids
    # The driver labels uuids, which travel as bytes, in a way of its own.
    return pa.ExtensionArray.from_storage(kind, ids.storage.cast(kind.storage_type))
