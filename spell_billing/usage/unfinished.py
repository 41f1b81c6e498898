"""A version of a month while it is written: in a hidden directory, which gets its name when it is whole."""

import errno
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spell_billing.core.errors import UsageError
from spell_billing.core.month import Month
from spell_billing.usage.disk import sync
from spell_billing.usage.duck import SPILL_PREFIX
from spell_billing.usage.frozen import MANIFEST_FILE, Manifest
from spell_billing.usage.manifest import write_manifest

UNFINISHED_PREFIX = ".unfinished-"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# No query spills for a day; younger spill directories may belong to a running one.
_SPILL_LEFTOVER_SECONDS = 86_400


@contextmanager
def unfinished_version(month: Month, directory: Path) -> Iterator[Path]:
    """Make a hidden directory to write to, which is removed when something goes wrong."""
    unfinished = directory / f"{UNFINISHED_PREFIX}{uuid.uuid4().hex}"
    unfinished.mkdir()
    try:
        yield unfinished
    except BaseException as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in _FULL:
            raise UsageError(
                f"{directory} has no room for the usage of {month}: {os.strerror(error.errno)}.",
                remedy="Make room there, or move SPELL_BILLING_USAGE_STORE to a larger disk.",
            ) from error
        raise


def keep(manifest: Manifest, unfinished: Path, final: Path) -> None:
    """Sync a whole directory to disk, and move it to its name."""
    write_manifest(manifest, unfinished)
    sync(unfinished / MANIFEST_FILE)
    sync(unfinished)
    unfinished.rename(final)
    sync(final.parent)


def remove_leftovers(directory: Path) -> None:
    """Remove what dead processes left of a month; call it under the month's lock."""
    for path in directory.glob(f"{UNFINISHED_PREFIX}*"):
        shutil.rmtree(path)
    oldest = time.time() - _SPILL_LEFTOVER_SECONDS
    for path in directory.glob(f"{SPILL_PREFIX}*"):
        if path.stat().st_mtime < oldest:
            shutil.rmtree(path, ignore_errors=True)
