"""Files as they must be on disk: whole, synced, and byte for byte what was frozen."""

import hashlib
import os
from pathlib import Path

from spell_billing.core.errors import IntegrityError
from spell_billing.usage.contract import FrozenFile


def verify_file(path: Path, expected: FrozenFile) -> None:
    """Check that a file is, byte for byte, what was frozen.

    Raises:
        IntegrityError: when it is missing or altered.
    """
    remedy = "Restore the file from a backup; do not freeze the month anew if it was billed."
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise IntegrityError(f"The frozen file {path} is missing.", remedy=remedy) from error
    if found != expected.sha256:
        raise IntegrityError(f"The frozen file {path} is not what was frozen.", remedy=remedy)


def sync_file(path: Path) -> None:
    """Have a file's content on disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Have a directory's names on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
