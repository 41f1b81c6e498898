"""Reads a SQLite file in a process of its own: queries in as lines of JSON, results out as Arrow streams.

Two copies of the SQLite library in one process break each other's locks: when one closes the file, the
operating system drops the locks that the other holds on it, and the file can be corrupted (sqlite.org,
"How To Corrupt An SQLite Database File", 2.2.1). Python brings one copy, the Arrow driver another, and the
ledger may live in the very file that usage is read from. So the Arrow driver runs here, alone.

Started as a script by `sqlite_process`. Imports nothing of billing, and not the driver's DB-API module,
which would load pandas and five times as long.
"""

import json
import sys

# Arrow does without NumPy where it is missing; loading it takes longer than all else that this process does
# for a small month.
sys.modules["numpy"] = None  # type: ignore[assignment] # Python's own way to say that a module is not there

import adbc_driver_sqlite  # noqa: E402 - after the line above
import pyarrow as pa  # noqa: E402
from adbc_driver_manager import AdbcConnection, AdbcStatement  # noqa: E402

BATCH_ROWS = 131_072


def main() -> None:
    """Answer the queries of standard input, each in turn, all in one read transaction."""
    with (
        adbc_driver_sqlite.connect(sys.argv[1]) as database,
        AdbcConnection(database) as connection,
        pa.output_stream(sys.stdout.buffer) as sink,
    ):
        for statement in ("PRAGMA busy_timeout = 30000", "PRAGMA query_only = 1", "BEGIN"):
            _run(connection, statement, pa.BufferOutputStream())
        for line in sys.stdin:
            _run(connection, json.loads(line), sink)
            # Arrow's own flush stops short of Python's buffer.
            sys.stdout.buffer.flush()


def _run(connection: AdbcConnection, query: str, sink: pa.NativeFile) -> None:
    with AdbcStatement(connection) as statement:
        statement.set_options(**{"adbc.sqlite.query.batch_rows": str(BATCH_ROWS)})
        statement.set_sql_query(query)
        handle, _ = statement.execute_query()
        with (
            pa.RecordBatchReader.from_stream(handle) as reader,
            pa.ipc.new_stream(sink, reader.schema) as writer,
        ):
            for batch in reader:
                writer.write_batch(batch)


if __name__ == "__main__":
    main()
