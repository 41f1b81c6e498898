"""The file of a month's users: kept with its hash, and read only while it is what was aggregated.

Equal sums would not tell that two users were exchanged after the rows were verified.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq

from spell_billing.core.errors import IntegrityError, UsageError
from spell_billing.usage.contract import USER_USAGE_FILE, FrozenUsage

HASH_FILE = "user_usage.sha256"


def keep_user_usage(unfinished: Path, directory: Path) -> Path:
    """Sync a finished file to disk and move it into a version, its hash before it; give its place.

    Args:
        unfinished: The file, on the same filesystem. The hash is written beside it, as `sha256sum` does.
        directory: The version's.
    """
    unfinished_hash, path = unfinished.with_name(HASH_FILE), directory / USER_USAGE_FILE
    unfinished_hash.write_text(f"{_sha256(unfinished)}  {USER_USAGE_FILE}\n", encoding="ascii")
    for each, place in ((unfinished_hash, directory / HASH_FILE), (unfinished, path)):
        with each.open("rb") as file:
            os.fsync(file.fileno())
        each.rename(place)
    return path


@contextmanager
def open_user_usage(frozen: FrozenUsage) -> Iterator[pq.ParquetFile]:
    """Open a version's users (user_id, calls, cost_cents; ordered by user_id), verified.

    Raises:
        UsageError: the version was not aggregated.
        IntegrityError: the file was altered since.
    """
    path = frozen.directory / USER_USAGE_FILE
    aggregate = "Materialize user_usage of the month"
    try:
        kept = (frozen.directory / HASH_FILE).read_text(encoding="ascii", errors="replace")
        found = _sha256(path)
    except FileNotFoundError as error:
        raise UsageError(
            f"{frozen.month}/{frozen.version} was not aggregated: {error.filename} is missing.",
            remedy=f"{aggregate} first.",
        ) from error
    if kept.split() != [found, USER_USAGE_FILE]:
        raise IntegrityError(
            f"{path} is not what was aggregated.",
            remedy=f"{aggregate} again, which verifies the frozen rows, then reconcile it.",
        )
    with pq.ParquetFile(path) as file:
        yield file


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
