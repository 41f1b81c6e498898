"""The file of frozen rows: on disk to the last byte, or an error; never a wait without end."""

import errno
import threading
from collections.abc import Iterator
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


def test_the_last_sync_comes_after_the_last_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.parquet"
    sizes_bytes = []
    monkeypatch.setattr(
        "spell_billing.usage.row_writer.os.fsync", lambda _: sizes_bytes.append(path.stat().st_size)
    )

    write_rows(path, rows=10_000, batches=20)

    assert sizes_bytes[-1] == path.stat().st_size


def test_who_is_interrupted_while_batches_wait_leaves_no_thread_and_writes_no_more(tmp_path: Path) -> None:
    batch = pa.record_batch({"user_id": pa.nulls(1, pa.string())})
    shaping, interrupted = threading.Event(), threading.Event()
    shaped: list[pa.RecordBatch] = []

    def shape(batch: pa.RecordBatch) -> pa.Table:
        shaped.append(batch)
        shaping.set()
        interrupted.wait(60)
        return pa.Table.from_batches([batch]).slice(1)

    def batches() -> Iterator[pa.RecordBatch]:
        yield batch
        shaping.wait(60)
        yield batch
        yield batch
        interrupted.set()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        row_writer.write_rows(tmp_path / "rows.parquet", batch.schema, batches(), shape=shape)

    assert len(shaped) <= 3
    assert not [each for each in threading.enumerate() if each.name.startswith("row-writer")]


@pytest.mark.parametrize("broken", [0, 5, 19])
def test_what_stops_the_writing_stops_the_reading(tmp_path: Path, broken: int) -> None:
    batch = pa.record_batch({"user_id": pa.nulls(1, pa.string())})
    shaped, read = iter(range(20)), []

    def shape(batch: pa.RecordBatch) -> pa.Table:
        if next(shaped) == broken:
            raise ValueError("a batch that cannot be shaped")
        return pa.Table.from_batches([batch]).slice(1)

    def batches() -> Iterator[pa.RecordBatch]:
        for number in range(20):
            read.append(number)
            yield batch

    with pytest.raises(ValueError, match="cannot be shaped"):
        row_writer.write_rows(tmp_path / "rows.parquet", batch.schema, batches(), shape=shape)
    assert len(read) <= broken + 1 + row_writer._WAITING_BATCHES


def write_rows(path: Path, *, rows: int, batches: int) -> None:
    batch = pa.record_batch({"cost_cents": pa.array(range(rows), pa.int64())})
    nothing = pa.nulls(rows, pa.int64())
    columns = [nothing, nothing.cast(pa.string()), batch["cost_cents"], nothing]
    table = pa.table(dict(zip(("id", "user_id", "cost_cents", "created_at"), columns, strict=True)))
    row_writer.write_rows(path, table.schema, [batch] * batches, shape=lambda _: table)
