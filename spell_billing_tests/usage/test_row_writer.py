"""The file of frozen rows: on disk to the last byte, or an error; never a wait without end."""

import errno
import hashlib
import signal
import threading
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

    monkeypatch.setattr("spell_billing.usage.disk.os.fsync", full)

    with pytest.raises(OSError, match="No space left"):
        write_rows(tmp_path / "rows.parquet", rows=rows, batches=1)


def test_the_sync_comes_after_the_last_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.parquet"
    sizes_bytes = []
    monkeypatch.setattr(
        "spell_billing.usage.disk.os.fsync", lambda _: sizes_bytes.append(path.stat().st_size)
    )

    write_rows(path, rows=10_000, batches=20)

    assert sizes_bytes == [path.stat().st_size]


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    batch = pa.record_batch(
        {"id": pa.array(range(100_000)), "user_id": ["anna"] * 100_000, "cost_cents": range(100_000)}
    )
    path = tmp_path / "rows.parquet"
    with row_writer.RowWriter(path, batch.schema, shape=lambda each: pa.Table.from_batches([each])) as writer:
        for _ in range(3):
            writer.put(batch)

    assert writer.file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_who_is_interrupted_while_the_queue_is_full_leaves_no_thread_behind(tmp_path: Path) -> None:
    batch = pa.record_batch({"user_id": pa.nulls(1, pa.string())})
    shaping, interrupted = threading.Event(), threading.Event()

    def shape(batch: pa.RecordBatch) -> pa.Table:
        shaping.set()
        interrupted.wait(60)
        return pa.Table.from_batches([batch]).slice(1)

    writer = row_writer.RowWriter(tmp_path / "rows.parquet", batch.schema, shape=shape)

    def leave() -> None:
        with writer:
            for _ in range(row_writer._WAITING_BATCHES):
                writer.put(batch)
                shaping.wait(60)
            # Comes when the context is left.
            signal.setitimer(signal.ITIMER_REAL, 0.05)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            leave()
    finally:
        signal.signal(signal.SIGALRM, before)
        interrupted.set()
    for thread in threading.enumerate():
        if thread.name.startswith("row-writer"):
            thread.join(60)
            assert not thread.is_alive()


def write_rows(path: Path, *, rows: int, batches: int) -> None:
    batch = pa.record_batch({"cost_cents": pa.array(range(rows), pa.int64())})
    nothing = pa.nulls(rows, pa.int64())
    columns = [nothing, nothing.cast(pa.string()), batch["cost_cents"], nothing]
    table = pa.table(dict(zip(("id", "user_id", "cost_cents", "created_at"), columns, strict=True)))
    with row_writer.RowWriter(path, table.schema, shape=lambda _: table) as writer:
        for _ in range(batches):
            writer.put(batch)
