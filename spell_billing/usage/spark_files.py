"""Reads a table in a folder of Parquet files through Spark, by the rules of `lake_files`."""

import os
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from spell_billing.core.errors import UsageError
from spell_billing.usage.lake_files import name_of, refuse_log, require_alike, require_parquet, table_files
from spell_billing.usage.tables import USAGE_TABLE


def rows_in_folder(session: Any, folder: str, table: str) -> Any:
    """Return the rows of a table, whose files are listed now; None where the folder has no such table.

    Raises:
        UsageError: see `table_files`; or Spark would leave out a file, as it does without a word.
    """
    # Asked of Hadoop, which knows folders on s3a:// and hdfs:// as well; pyspark has no public way.
    root = session._jvm.org.apache.hadoop.fs.Path(folder)  # noqa: SLF001
    system = root.getFileSystem(session._jsc.hadoopConfiguration())  # noqa: SLF001
    if not system.exists(root):
        return None
    entries = {each.getPath().getName(): each.isDirectory() for each in system.listStatus(root)}
    name = name_of(table, PurePosixPath(folder), entries)
    if name is None:
        return None
    place = os.path.join(folder, name)  # noqa: PTH118 - a URL
    path = PurePosixPath(root.toUri().getPath(), name)
    if system.getScheme() == "file":
        # Hadoop conceals links that lead nowhere.
        found = table_files(Path(path.parent), table)
        files, has_keys = (
            {str(file) for file in found.files} if found else set(),
            bool(found and found.has_keys),
        )
    else:
        if entries[name]:
            children = system.listStatus(session._jvm.org.apache.hadoop.fs.Path(place))  # noqa: SLF001
            refuse_log(path, [each.getPath().getName() for each in children])
        everything = session.read.format("binaryFile").option("recursiveFileLookup", "true").load(place)
        files = _paths(everything)
        has_keys = require_parquet(path, sorted(map(PurePosixPath, files)))
        if table != USAGE_TABLE:
            require_alike({uri: session.read.parquet(uri).columns for uri in everything.inputFiles()})
    # With keys Spark looks only where they lead, and without them only into the folder itself, unless told.
    rows = session.read.option("recursiveFileLookup", "false" if has_keys else "true").parquet(place)
    if others := files.symmetric_difference(_paths(rows)):
        raise UsageError(
            f"Spark does not read the files of {place} that are there: {min(others)} differs.",
            remedy="Run it again when nothing writes there; if it stays, put the files into the folder.",
        )
    return rows


def _paths(rows: Any) -> set[str]:
    return {unquote(urlsplit(uri).path) for uri in rows.inputFiles()}
