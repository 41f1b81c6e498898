"""Files as they must be on disk: whole, synced, and byte for byte what was frozen."""

import hashlib
import os
from pathlib import Path

import pyarrow as pa

from spell_billing.core.errors import IntegrityError
from spell_billing.usage.frozen import RESTORE_FILE, FrozenFile


def sha256_of(path: Path) -> str:
    """Return the hash of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def finished_file(path: Path, rows: int) -> FrozenFile:
    """Sync a finished file to disk, and return its name, hash and row count."""
    sync(path)
    return FrozenFile(path.name, sha256_of(path), rows)


class HashedFile:
    """A new file that is hashed while it is written, for a writer that only appends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = pa.OSFile(str(path), "wb")
        self._digest = hashlib.sha256()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return bool(self._file.closed)

    def write(self, data: bytes) -> int:
        """Append the bytes, all of them."""
        self._digest.update(data)
        return int(self._file.write(data))

    def tell(self) -> int:
        """Return how many bytes were written."""
        return int(self._file.tell())

    def flush(self) -> None:
        """Do nothing: nothing is held back."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def finished(self, rows: int) -> FrozenFile:
        """Sync the closed file to disk, and return its name, hash and row count."""
        sync(self._path)
        return FrozenFile(self._path.name, self._digest.hexdigest(), rows)


def verify_file(path: Path, expected: FrozenFile) -> None:
    """Check that a file is, byte for byte, what was frozen.

    Raises:
        IntegrityError: when it is missing or altered.
    """
    try:
        found = sha256_of(path)
    except FileNotFoundError as error:
        raise IntegrityError(f"The frozen file {path} is missing.", remedy=RESTORE_FILE) from error
    if found != expected.sha256:
        raise IntegrityError(f"The frozen file {path} is not what was frozen.", remedy=RESTORE_FILE)


def sync(path: Path) -> None:
    """Sync a file's content, or a directory's names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
