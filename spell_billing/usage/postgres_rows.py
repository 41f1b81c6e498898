"""Streams a month's rows from PostgreSQL into Parquet, by as many connections as can share the snapshot."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from spell_billing.core.month import Month
from spell_billing.databases import DatabaseUrl
from spell_billing.usage.amounts import (
    as_decimal,
    decimal_from_text,
    integer_amount_type,
    text_amount_type,
)
from spell_billing.usage.contract import FrozenFile, Totals
from spell_billing.usage.postgres_snapshot import Snapshot, join_snapshot
from spell_billing.usage.postgres_sql import CostForm, UsageSql
from spell_billing.usage.row_writer import RowWriter

# Each reads its part of the month: one server process alone would be the bottleneck.
_READERS = 2


@dataclass(frozen=True)
class MonthRows:
    """The billable rows of a month in a snapshot, and how their cost travels."""

    readers: Sequence[Snapshot]
    sql: UsageSql
    month: Month
    form: CostForm

    def write(self, path: Path, on_progress: Callable[[int], None] | None) -> tuple[FrozenFile, Totals]:
        """Write them to a Parquet file; give it with their number and sum, taken from what was written."""
        queries = self.sql.rows(self.month, self.form, parts=len(self.readers))
        schema = _written_schema(self.readers[0].table(f"{queries[0]} LIMIT 0").schema, self.form)

        def shape(batch: pa.RecordBatch) -> pa.Table:
            return _shape(batch, schema, self.form)

        with RowWriter(path, schema, shape=shape, on_progress=on_progress) as writer:
            _read_all(self.readers, queries, writer)
        return writer.file, writer.totals


@contextmanager
def month_readers(url: DatabaseUrl, snapshot: Snapshot) -> Iterator[list[Snapshot]]:
    """Open the connections that read: more than one on the same snapshot, or else the snapshot's own."""
    with ExitStack() as stack:
        name = snapshot.export()
        joined = [stack.enter_context(join_snapshot(url, name)) for _ in range(_READERS)]
        yield [reader for reader in joined if reader is not None] or [snapshot]


def _read_all(readers: Sequence[Snapshot], queries: Sequence[str], writer: RowWriter) -> None:
    def read(reader: Snapshot, query: str) -> None:
        try:
            with reader.stream(query) as batches:
                for batch in batches:
                    writer.put(batch)
        except BaseException:
            writer.cancel()
            raise

    with ThreadPoolExecutor(len(readers), thread_name_prefix="row-reader") as pool:
        try:
            list(pool.map(read, readers, queries))
        except BaseException:
            # Also when a person interrupts: the readers stop at their next batch.
            writer.cancel()
            raise


def _written_schema(read: pa.Schema, form: CostForm) -> pa.Schema:
    cost = text_amount_type(form.scale) if form.as_text else integer_amount_type(form.scale)
    return pa.schema(
        [
            pa.field("id", _plain(read.field("id").type)),
            pa.field("user_id", _plain(read.field("user_id").type)),
            pa.field("cost_cents", cost),
            pa.field("created_at", pa.timestamp("us", tz="UTC")),
        ]
    )


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
    return pa.ExtensionArray.from_storage(pa.uuid(), column.storage.cast(pa.uuid().storage_type))
