"""Sums of users as an engine gives them: refused where they may not be exact, and written as Parquet."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from spell_billing.core.errors import UsageError
from spell_billing.core.items import OTHER
from spell_billing.core.money import exact_sum
from spell_billing.core.month import Month
from spell_billing.usage.amounts import exact
from spell_billing.usage.amounts import exact_sum as column_sum
from spell_billing.usage.contract import OnProgress
from spell_billing.usage.disk import finished_file
from spell_billing.usage.frozen import PLAIN, Detail, FrozenFile, Sums, Totals
from spell_billing.usage.lake_sql import DIGITS, is_exact
from spell_billing.usage.tables import require_text

SUMS_FILE = "user_sums.parquet"
"""Of each user, and item where there is one: calls, cost, quantity where it is priced, fingerprint."""


@dataclass(frozen=True)
class SumReader:
    """Reads the sums of a month from the batches that an engine gives."""

    month: Month
    backend: str
    scale: int
    detail: Detail = PLAIN
    quantity_scale: int = 0

    def require_exact(self, calls: int, scale: int, *amounts: Decimal | None) -> None:
        """Refuse a sum of so many calls between these amounts if it may not have been added up exactly."""
        if is_exact(calls, scale, *amounts):
            return
        largest = exact(str(max(abs(each) for each in amounts if each is not None)))
        raise UsageError(
            f"{calls:,} calls of {self.month} of up to {largest:f} with {scale} decimal places cannot be "
            f"added up exactly in {self.backend}, whose sums have {DIGITS} digits.",
            remedy="Correct absurd amounts, or give the column fewer decimal places (a view does as well).",
        )

    def read(self, batch: pa.RecordBatch, names: Sequence[str] | None = None) -> pa.Table:
        """Return columns of a batch in their types: all that were asked for, or these.

        Raises:
            UsageError: a sum may not be exact.
        """
        self._require_sums(batch, self.scale, "most", "least")
        if self.detail.has_quantity:
            self._require_sums(batch, self.quantity_scale, "most_quantity", "least_quantity")
        given = {name: batch[name] for name in batch.schema.names}
        schema = self.schema(names)
        # Of a month without items, all are of one; without quantities, none was measured.
        nothing = {name: pa.repeat(OTHER if name == "item" else 0, len(batch)) for name in schema.names}
        columns = [(nothing | given)[each.name].cast(each.type) for each in schema]
        if "quantity" in schema.names:
            # Of calls none of which has a quantity, the engine's sum is null.
            place = schema.get_field_index("quantity")
            columns[place] = pc.fill_null(columns[place], pa.scalar(Decimal(0), schema.field(place).type))
        return pa.Table.from_arrays(columns, schema=schema)

    def schema(self, names: Sequence[str] | None = None) -> pa.Schema:
        """Return the types of these columns, or of those that are frozen."""
        types = {
            "user_id": pa.string(),
            "item": pa.string(),
            "calls": pa.int64(),
            "cost_cents": pa.decimal128(DIGITS, self.scale),
            "quantity": pa.decimal128(DIGITS, self.quantity_scale),
            "measured": pa.int64(),
            "fingerprint": pa.decimal128(DIGITS, 0),
        }
        left_out = set() if self.detail.items_by else {"item"}
        left_out |= set() if self.detail.has_quantity else {"quantity", "measured"}
        return pa.schema([(name, types[name]) for name in names or [*types] if names or name not in left_out])

    def write(
        self, path: Path, batches: Iterable[pa.RecordBatch], on_progress: OnProgress | None, *, expected: int
    ) -> tuple[FrozenFile, Sums]:
        """Write all of it, and return what it comes to, added up here."""
        rows, calls, cost, fingerprint = 0, 0, Decimal(0), Decimal(0)
        with pq.ParquetWriter(path, self.schema(), compression="zstd") as writer:
            for batch in batches:
                table = self.read(batch)
                require_text(table)
                writer.write_table(table)
                rows += len(table)
                calls += pc.sum(table["calls"]).as_py() or 0
                cost = exact_sum(cost, *map(column_sum, table["cost_cents"].chunks))
                fingerprint = exact_sum(fingerprint, *map(column_sum, table["fingerprint"].chunks))
                if on_progress:
                    on_progress(calls, expected)
        return finished_file(path, rows), Sums(Totals(calls, as_exact(cost)), as_exact(fingerprint))

    def _require_sums(self, batch: pa.RecordBatch, scale: int, most: str, least: str) -> None:
        columns = [batch[name] for name in ("calls", most, least)]
        # All at once, and one by one only where that does not do: it almost always does.
        find = zip((pc.max, pc.max, pc.min), columns, strict=True)
        calls, *extremes = (of(column).as_py() for of, column in find)
        if is_exact(calls or 0, scale, *extremes):
            return
        for calls, *amounts in zip(*(column.to_pylist() for column in columns), strict=True):
            self.require_exact(calls, scale, *amounts)


def as_exact(amount: Any) -> Decimal:
    """Return an engine's sum as it is compared; that of no row, which is null, is zero."""
    return Decimal(0) if amount is None else exact(str(amount))
