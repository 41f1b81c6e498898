"""Streams a month's billable rows from PostgreSQL into Parquet."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from spell_billing.core.month import Month
from spell_billing.usage.amounts import (
    as_decimal,
    decimal_from_text,
    integer_amount_type,
    text_amount_type,
)
from spell_billing.usage.contract import FrozenFile, Totals
from spell_billing.usage.postgres_snapshot import Snapshot
from spell_billing.usage.postgres_sql import CostForm, UsageSql
from spell_billing.usage.row_writer import write_rows


def write_month(
    snapshot: Snapshot,
    sql: UsageSql,
    month: Month,
    form: CostForm,
    *,
    path: Path,
    on_progress: Callable[[int], None] | None,
) -> tuple[FrozenFile, Totals]:
    """Write the month's billable rows to a Parquet file; return it with their number and sum, as written."""
    with snapshot.stream(sql.rows(month, form)) as batches:
        schema = _written_schema(batches.schema, sql, form)
        return write_rows(
            path,
            schema,
            batches,
            shape=lambda batch: _shape(batch, schema, form),
            on_progress=on_progress,
        )


def _written_schema(read: pa.Schema, sql: UsageSql, form: CostForm) -> pa.Schema:
    cost = text_amount_type(form.scale) if form.as_text else integer_amount_type(form.scale)
    return pa.schema(
        [
            pa.field("id", _plain(read.field("id").type), nullable=sql.may_lack_ids),
            pa.field("user_id", _plain(read.field("user_id").type), nullable=False),
            pa.field("cost_cents", cost, nullable=False),
            pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
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
