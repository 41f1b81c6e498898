"""Opens DuckDB as billing uses it: bounded memory, its own spill directory, nothing from the network."""

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from spell_billing.usage.frozen import FrozenUsage

MEMORY_LIMIT_BYTES = 1 << 30
SPILL_PREFIX = ".duckdb-"
_PATTERN_LETTER = re.compile(r"[*?[]")
UTC_DAY = "DATE '1970-01-01' + (epoch_us(created_at) // 86400000000)::INTEGER"
"""SQL for the day of a frozen row; a cast to DATE would follow the session's time zone."""


Stream = AbstractContextManager[pa.RecordBatchReader]
"""Opens a stream of rows."""


@contextmanager
def open_duckdb(
    spill_parent: Path, *, memory_limit_bytes: int = MEMORY_LIMIT_BYTES
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an empty in-memory DuckDB and close it at the end.

    Args:
        spill_parent: Where it may keep what exceeds the memory limit; cleaned up at the end.
        memory_limit_bytes: What its buffers may take.
    """
    with tempfile.TemporaryDirectory(prefix=SPILL_PREFIX, dir=spill_parent) as spill:
        connection = duckdb.connect(
            ":memory:",
            config={
                "memory_limit": f"{memory_limit_bytes}B",
                "temp_directory": spill,
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
                "allow_community_extensions": "false",
                # A Python variable that happens to have a table's name must not become that table.
                "python_enable_replacements": "false",
            },
        )
        try:
            yield connection
        finally:
            connection.close()


@contextmanager
def registered(duck: duckdb.DuckDBPyConnection, name: str, stream: Stream) -> Iterator[None]:
    """Let SQL read a stream by a name; raise an error of the stream itself, not what DuckDB makes of it."""
    failed: list[Exception] = []

    def batches(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        try:
            yield from reader
        except Exception as error:
            failed.append(error)
            raise

    with stream as reader:
        duck.register(name, pa.RecordBatchReader.from_batches(reader.schema, batches(reader)))
        try:
            yield
        except duckdb.Error as error:
            if failed:
                raise failed[0] from error
            raise
        duck.unregister(name)


def calls_in(frozen: FrozenUsage) -> str:
    """Return SQL for the calls of frozen rows, each of which is one call, or the sum of a user's."""
    return "sum(calls)::BIGINT" if frozen.manifest.is_summed else "count(*)"


def quoted(path: Path | str) -> str:
    """Return a path as an SQL string."""
    return "'" + str(path).replace("'", "''") + "'"


def write_parquet(
    duck: duckdb.DuckDBPyConnection, query: str, path: Path, given: Mapping[str, str] | None = None
) -> None:
    """Write what a query finds as a Parquet file."""
    duck.execute(f"COPY ({query}) TO {quoted(path)} (FORMAT parquet, COMPRESSION zstd)", given)


def parquet_list(paths: Sequence[Path]) -> str:
    """Return SQL that reads these Parquet files."""
    # Each name is a pattern: a[1].parquet would read a1.parquet.
    patterns = (_PATTERN_LETTER.sub(r"[\g<0>]", str(path)) for path in paths)
    return f"read_parquet([{', '.join(quoted(pattern) for pattern in patterns)}])"
