"""The file of frozen rows: on disk to the last byte, or an error; never a wait without end."""

import errno
from pathlib import Path

import pyarrow as pa
import pytest

from spell_billing.usage import row_writer


@pytest.mark.parametrize("rows", [0, 1, 100_000])
def test_a_disk_that_is_full_at_the_end_is_an_error_and_not_a_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("spell_billing.usage.row_writer.os.fsync", full)

    with pytest.raises(OSError, match="No space left"):
        write_rows(tmp_path / "rows.parquet", rows=rows, batches=1)


def test_a_disk_that_fails_on_the_way_is_told_although_later_syncs_succeed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The operating system tells of lost pages once only.
    failures = iter([OSError(errno.EIO, "Input/output error")])

    def failing_once(_: int) -> None:
        for failure in failures:
            raise failure

    monkeypatch.setattr("spell_billing.usage.row_writer.os.fsync", failing_once)
    monkeypatch.setattr("spell_billing.usage.row_writer._SYNC_BYTES", 1_000)

    with pytest.raises(OSError, match="Input/output"):
        write_rows(tmp_path / "rows.parquet", rows=10_000, batches=3)


def test_the_last_sync_comes_after_the_last_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.parquet"
    sizes_bytes = []
    monkeypatch.setattr(
        "spell_billing.usage.row_writer.os.fsync", lambda _: sizes_bytes.append(path.stat().st_size)
    )
    monkeypatch.setattr("spell_billing.usage.row_writer._SYNC_BYTES", 1_000)

    write_rows(path, rows=10_000, batches=20)

    assert len(sizes_bytes) > 1
    assert sizes_bytes[-1] == path.stat().st_size


def write_rows(path: Path, *, rows: int, batches: int) -> None:
    batch = pa.record_batch({"cost_cents": pa.array(range(rows), pa.int64())})
    columns = [pa.nulls(rows, pa.int64()), batch["cost_cents"], pa.nulls(rows, pa.int64())]
    table = pa.table(dict(zip(("id", "cost_cents", "created_at"), columns, strict=True)))
    with row_writer.RowWriter(path, table.schema, shape=lambda _: table) as writer:
        for _ in range(batches):
            writer.put(batch)
