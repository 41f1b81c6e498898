"""Lists the Parquet files that a table in a folder consists of: all that are visible, each of them once.

What is overlooked is not billed, and what is read twice is billed twice. So whatever may be a part of the
table and is not read is refused by name. Only what is hidden by the convention of Hive and Spark is left out:
a copy that is under way, or what a job has not committed.
"""

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from spell_billing.core.errors import UsageError, UsageInterruptedError
from spell_billing.usage.tables import USAGE_TABLE

_EXTENSION = ".parquet"
_LOGS = {"_delta_log": "Delta Lake", ".hoodie": "Hudi", "_spark_metadata": "a Spark stream"}
"""Folders that tell which files of a table count, by what writes them."""


@dataclass(frozen=True)
class TableFiles:
    """A table: its files in the order of their names, and whether folders `key=value` give it columns.

    Each file has its size in bytes and the time of its last change in nanoseconds.
    """

    files: Mapping[Path, tuple[int, int]]
    has_keys: bool


def table_files(folder: Path, table: str) -> TableFiles | None:
    """List the files of a table on this machine; None where the folder has no such table.

    Raises:
        UsageError: something there is no part of the table that can be read.
        UsageInterruptedError: something was removed meanwhile.
    """
    try:
        with os.scandir(folder) as entries:
            name = name_of(table, folder, {entry.name: entry.is_dir() for entry in entries})
        if name is None:
            return None
        place = folder / name
        files = dict(_walk(place, {}))
    except OSError as error:
        gone = isinstance(error, FileNotFoundError) and not Path(error.filename).is_symlink()
        raise (UsageInterruptedError if gone else UsageError)(
            f"{error.filename} cannot be read: {error.strerror}.",
            remedy="Nothing was frozen. Mount the disk, or let the user that billing runs as read there.",
        ) from error
    has_keys = _have_keys(place, files)
    if table != USAGE_TABLE:
        require_alike({str(file): _columns(file) for file in files})
    return TableFiles(files, has_keys)


def _columns(file: Path) -> list[str]:
    try:
        return list(pq.read_schema(file).names)
    except (pa.ArrowException, OSError) as error:
        raise UsageError(
            f"{file} is not a complete Parquet file: {str(error).rstrip('.')}.",
            remedy="Nothing was frozen. Write the file anew, or move it elsewhere if it does not count.",
        ) from error


def require_alike(columns: Mapping[str, Iterable[str]]) -> None:
    """Refuse accounts or prices of which a file lacks a column that another has: there null has a meaning.

    Args:
        columns: The names of each file's columns, by the file.
    """
    names = {file: {name.lower() for name in found} for file, found in columns.items()}
    having = {name: file for file, found in names.items() for name in found}
    for file, found in names.items():
        if lacking := having.keys() - found:
            raise UsageError(
                f"{file} has no column {min(lacking)}, as {having[min(lacking)]} has.",
                remedy="Write the file anew with that column, null in rows for which nothing is said.",
            )


def name_of(table: str, folder: PurePath, entries: Mapping[str, bool]) -> str | None:
    """Return what a table is named in a folder: a file, or a folder of files; None where it is not there.

    Args:
        table: Its name in lower case; names have no case here.
        folder: Where it is, for messages.
        entries: What is in the folder: whether each is a folder itself, by its name.
    """
    names = sorted(name for name in entries if name.lower() in {table, table + _EXTENSION})
    others = [
        name
        for name, is_folder in entries.items()
        if PurePath(name).stem.lower() == table and name not in names and not is_folder
    ]
    if others:
        raise _no_parquet(folder / others[0])
    if len(names) > 1:
        raise UsageError(
            f"{table} stands twice in {folder}: as {names[0]} and as {names[1]}.",
            remedy="Put all files of the table into one folder, and move what does not count elsewhere.",
        )
    return names[0] if names else None


def _have_keys(place: PurePath, files: Iterable[PurePath]) -> bool:
    """Return whether files lie in folders `key=value` of their table, which are columns of their rows.

    Raises:
        UsageError: some lie in folders of other keys: their rows would lack a column, as the currency.
    """
    keys = {
        file: frozenset(_key(part) for part in file.relative_to(place).parts[:-1] if "=" in part)
        for file in files
    }
    if not keys:
        raise UsageError(
            f"{place} holds no Parquet file.",
            remedy="Write the table's files, or remove the folder if there is no such table.",
        )
    most = max(keys, key=lambda file: len(keys[file]))
    for file, found in keys.items():
        if lacking := keys[most] - found:
            raise UsageError(
                f"{file} lies in no folder {min(lacking)}=..., as {most} does.",
                remedy="Move it into such a folder, because these are columns of the table's rows.",
            )
    return bool(keys[most])


def _key(part: str) -> str:
    key, _, value = part.partition("=")
    if not key or not value or "=" in value:
        raise UsageError(
            f"{part} is no folder of a key and a value.",
            remedy="Name it key=value, because such folders are columns; write = within a value as %3D.",
        )
    return key


def refuse_log(place: PurePath, names: Iterable[str]) -> None:
    """Refuse a table's folder where a log tells which files count, by the names in it."""
    for name in names:
        if name in _LOGS:
            raise UsageError(
                f"{place} is a table of {_LOGS[name]}: only its {name} tells which files count.",
                remedy="Let USAGE_DATABASE_URL name an engine whose catalog has the table, as "
                "spark://host:7077/database.",
            )


def _walk(place: Path, seen: dict[tuple[int, int], Path]) -> Iterator[tuple[Path, tuple[int, int]]]:
    """Find all files, behind links too, each with its size and the time of its last change."""
    about = place.stat()
    same = seen.setdefault((about.st_dev, about.st_ino), place)
    if same != place:
        raise UsageError(
            f"{place} is the same as {same}: its rows would count twice.",
            remedy="Remove one of them, or give it a name that begins with a dot, which is not read.",
        )
    if stat.S_ISDIR(about.st_mode):
        names = sorted(entry.name for entry in place.iterdir())
        refuse_log(place, names)
        for name in names:
            if not _is_hidden(name):
                yield from _walk(place / name, seen)
    elif stat.S_ISREG(about.st_mode) and place.suffix.lower() == _EXTENSION:
        yield place, (about.st_size, about.st_mtime_ns)
    else:
        raise _no_parquet(place)


def _is_hidden(name: str) -> bool:
    """Return whether a name is left out, as Spark does: `_key=value` is a folder of data."""
    return name.startswith(".") or (name.startswith("_") and "=" not in name) or name.endswith("._COPYING_")


def _no_parquet(place: PurePath) -> UsageError:
    return UsageError(
        f"{place} is no Parquet file, and would not be billed.",
        remedy="Write it as Parquet, move it elsewhere, or let its name begin with _ or a dot: such files "
        "are not read.",
    )


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
        if found is None:
            return None
        files, has_keys = {str(file) for file in found.files}, found.has_keys
    else:
        if entries[name]:
            children = system.listStatus(session._jvm.org.apache.hadoop.fs.Path(place))  # noqa: SLF001
            refuse_log(path, [each.getPath().getName() for each in children])
        everything = session.read.format("binaryFile").option("recursiveFileLookup", "true").load(place)
        files = _paths(everything)
        paths = sorted(map(PurePosixPath, files))
        if others := [each for each in paths if each.suffix.lower() != _EXTENSION]:
            raise _no_parquet(others[0])
        has_keys = _have_keys(path, paths)
        if table != USAGE_TABLE:
            require_alike({uri: session.read.parquet(uri).columns for uri in everything.inputFiles()})
    # With keys Spark looks only where they lead, and without them only into the folder itself, unless told.
    rows = session.read.option("recursiveFileLookup", "false" if has_keys else "true").parquet(place)
    if differing := files.symmetric_difference(_paths(rows)):
        raise UsageError(
            f"Spark does not read the files of {place} that are there: {min(differing)} differs.",
            remedy="Run it again when nothing writes there; if it stays, put the files into the folder.",
        )
    return rows


def _paths(rows: Any) -> set[str]:
    return {unquote(urlsplit(uri).path) for uri in rows.inputFiles()}
