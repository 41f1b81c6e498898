"""Files as they must be on disk: whole, synced, and byte for byte what was frozen."""

import hashlib
import os
from pathlib import Path

from spell_billing.core.errors import IntegrityError
from spell_billing.usage.contract import FrozenFile


def sha256_of(path: Path) -> str:
    """Return the hash of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def finished_file(path: Path, rows: int) -> FrozenFile:
    """Sync a finished file to disk, and return its name, hash and row count."""
    sync(path)
    return FrozenFile(path.name, sha256_of(path), rows)


def verify_file(path: Path, expected: FrozenFile) -> None:
    """Check that a file is, byte for byte, what was frozen.

    Raises:
        IntegrityError: when it is missing or altered.
    """
    remedy = "Restore the file from a backup; do not freeze the month anew if it was billed."
    try:
        found = sha256_of(path)
    except FileNotFoundError as error:
        raise IntegrityError(f"The frozen file {path} is missing.", remedy=remedy) from error
    if found != expected.sha256:
        raise IntegrityError(f"The frozen file {path} is not what was frozen.", remedy=remedy)


def sync(path: Path) -> None:
    """Sync a file's content, or a directory's names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
