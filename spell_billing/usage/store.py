"""Keeps frozen months on disk: whole versions only, proven by their hashes, never changed once there."""

import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from spell_billing.core.errors import StoreError, StoreInterruptedError, UsageError
from spell_billing.core.month import Month
from spell_billing.settings.environment import usable_folder
from spell_billing.settings.usage_place import SETTING, BucketPlace
from spell_billing.usage.contract import OnProgress, OnWait, Past, UsageSource
from spell_billing.usage.disk import finished_file, sync, verify_file
from spell_billing.usage.frozen import MANIFEST_FILE, NO_BAD_ROWS, FrozenUsage, Manifest, Totals
from spell_billing.usage.late import checked
from spell_billing.usage.manifest import files_of, of_month, read_manifest
from spell_billing.usage.unfinished import UNFINISHED_PREFIX, keep, remove_leftovers, unfinished_version
from spell_billing.usage.version_names import (
    SUPPLEMENT_PREFIX,
    is_version,
    next_version,
    sorted_months,
    sorted_versions,
    supplement_name,
)

if TYPE_CHECKING:
    from spell_billing.usage.bucket_files import BucketFiles

KEPT_VERSIONS = 3
"""Newest versions of a month that stay although nothing pins them."""

LOCK_TIMEOUT_SECONDS = 3600.0
_NO_ROWS = Totals(0, Decimal(0))
_LOCK_FILE = ".lock"
_SETTINGS = f"{SETTING} (by default in SPELL_BILLING_HOME)"


class UsageStore:
    """The versions of each month under `root/2026-10/v0001/`.

    Args:
        root: Created when missing. On a local disk: locks and renames must be the operating system's.
        lock_timeout_seconds: How long one freeze of a month waits for another.
    """

    _keeper: "BucketFiles | None" = None

    def __init__(self, root: Path, *, lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS) -> None:
        self._root = root
        self._lock_timeout_seconds = lock_timeout_seconds

    def freeze(
        self,
        source: UsageSource,
        month: Month,
        *,
        late_for: Sequence[FrozenUsage] = (),
        past: Past | None = None,
        on_progress: OnProgress | None = None,
        on_wait: OnWait | None = None,
    ) -> FrozenUsage:
        """Freeze the month into a new version, which appears only when whole and synced to disk.

        For the arguments see `UsageSource.freeze`.

        Raises:
            UsageError: the source cannot be billed from, or another freeze of the month runs too long.
            IntegrityError: the rows written are not what the database counts and sums, or an earlier month's
                files are not what was frozen.
            StoreInterruptedError: a user was erased meanwhile, whose rows the version may have.
        """
        months = [one.month for one in late_for]
        if len(set(months)) < len(months) or any(earlier >= month for earlier in months):
            raise ValueError("late_for takes one version each of months before the frozen one")
        for one in late_for:
            # What was altered there would come as late usage of its user.
            self.verify(one)
        last_erasure = self._last_erasure()
        with self._locked(month) as directory, unfinished_version(month, directory) as unfinished:
            manifest = source.freeze(
                month, unfinished, late_for=late_for, past=past, on_progress=on_progress, on_wait=on_wait
            )
            frozen = self._keep_version(month, manifest, unfinished, directory)
        # Asked after the version appeared: an erasure that begins later finds it.
        if self._last_erasure() != last_erasure:
            self._remove(directory, frozen.version)
            raise StoreInterruptedError(
                f"A user was erased while {month} was being frozen.", remedy="Freeze the month again."
            )
        return frozen

    def supplement(
        self,
        source: UsageSource,
        frozen: FrozenUsage,
        recorded: Sequence[FrozenUsage],
        users: Collection[str],
    ) -> FrozenUsage:
        """Record what users have in a pinned month now beyond what was frozen, beside the version.

        For the arguments see `UsageSource.supplement`.

        Returns:
            The version with its new supplement, or as it was when nothing differs.

        Raises:
            UsageError: the source cannot be billed from.
            IntegrityError: a file is not what was frozen.
        """
        for one in recorded:
            self.verify(one)
        month = frozen.month
        with self._locked(month) as directory, unfinished_version(month, directory) as unfinished:
            frozen_at = datetime.now(UTC)
            late = source.supplement(frozen, unfinished, recorded=recorded, users=users)
            if late is None:
                shutil.rmtree(unfinished)
                return frozen
            manifest = replace(
                frozen.manifest,
                frozen_at=frozen_at,
                frozen=_NO_ROWS,
                control=_NO_ROWS,
                files=(),
                plans=None,
                late=late,
                late_checked=checked(recorded),
                bad_rows=NO_BAD_ROWS,
                items_by=None,
                rates=None,
                fingerprint=None,
            )
            name = supplement_name(len(frozen.supplements) + 1)
            self._keep_supplement(frozen, name, manifest, unfinished)
        return self.version(frozen.month, frozen.version)

    def versions(self, month: Month) -> list[str]:
        """List the month's versions, oldest first."""
        directory = self._root / str(month)
        return sorted_versions(path.name for path in directory.iterdir()) if directory.is_dir() else []

    def latest(self, month: Month) -> FrozenUsage | None:
        """Return the newest version, or None when the month was never frozen."""
        versions = self.versions(month)
        return self.version(month, versions[-1]) if versions else None

    def version(self, month: Month, version: str) -> FrozenUsage:
        """Return one version.

        Raises:
            UsageError: it is not there, or its manifest is damaged.
        """
        manifest = self._manifest(month, version) if is_version(version) else None
        if manifest is None:
            raise self._missing(month, version)
        directory = self._root / str(month) / version
        supplements: list[FrozenUsage] = []
        while (name := f"{version}/{supplement_name(len(supplements) + 1)}") and (
            of_supplement := self._manifest(month, name)
        ):
            folder = self._root / str(month) / name
            supplements.append(FrozenUsage(month, name, folder, of_supplement, keeper=self._keeper))
        if self._keeper is None and len(list(directory.glob(f"{SUPPLEMENT_PREFIX}*"))) > len(supplements):
            raise self._missing(month, name)
        return FrozenUsage(month, version, directory, manifest, tuple(supplements), self._keeper)

    def verify(self, frozen: FrozenUsage) -> None:
        """Check that every file of the version is, byte for byte, what was frozen.

        Raises:
            IntegrityError: naming the file that is missing or altered.
        """
        for each in (frozen, *frozen.supplements):
            for file in files_of(each.manifest):
                if each.keeper:
                    each.keeper.verify(each, file)
                else:
                    verify_file(each.path(file), file)

    def fetch(self, frozen: FrozenUsage) -> None:
        """See that all files of a version are in its directory."""

    def keep_replaced(self, frozen: FrozenUsage, manifest: Manifest) -> None:
        """Keep the manifest that took the place of another in a version's directory, with the new files."""

    def remove_unnamed(self, frozen: FrozenUsage, manifest: Manifest) -> None:
        """Remove what is kept of a version beside its directory, and no manifest names."""

    def test(self) -> str:
        """Write, read and remove a file of no month; say in words what the store can do."""
        with (
            usable_folder(self._root, _SETTINGS),
            tempfile.TemporaryDirectory(prefix=UNFINISHED_PREFIX, dir=self._root) as folder,
        ):
            path = Path(folder) / MANIFEST_FILE
            path.write_bytes(b"written to test the store")
            verify_file(path, finished_file(path, 0))
        return f"{self._root}: a file was written, read and removed."

    def size_bytes(self, month: Month, version: str) -> int:
        """Return what a version takes on the disk, with its supplements."""
        files = (self._root / str(month) / version).rglob("*")
        return sum(path.stat().st_size for path in files if path.is_file())

    def prune(self, month: Month, *, keep: AbstractSet[str], newest: int = KEPT_VERSIONS) -> list[str]:
        """Remove superseded versions, but never one to keep, nor the newest few; return their names."""
        with self._locked(month) as directory:
            versions = self.versions(month)
            superseded = versions[: max(0, len(versions) - newest)]
            pruned = [version for version in superseded if version not in keep]
            for version in pruned:
                self._remove(directory, version)
        return pruned

    def months(self) -> list[Month]:
        """List the months that were frozen, oldest first."""
        return sorted_months(path.name for path in self._root.iterdir()) if self._root.is_dir() else []

    @contextmanager
    def locked(self, months: Collection[Month]) -> Iterator[None]:
        """Keep every other process from freezing, pruning or otherwise changing these months' files."""
        with ExitStack() as locks:
            for month in sorted(months):
                locks.enter_context(self._locked(month))
            yield

    def _last_erasure(self) -> bytes | None:
        """Return what changes with each erasure on another machine; none has this folder."""
        return None

    def _manifest(self, month: Month, version: str) -> Manifest | None:
        directory = self._root / str(month) / version
        return of_month(month, read_manifest(directory), str(directory)) if directory.is_dir() else None

    def _keep_version(
        self, month: Month, manifest: Manifest, unfinished: Path, directory: Path
    ) -> FrozenUsage:
        version = next_version(self.versions(month))
        keep(manifest, unfinished, directory / version)
        return FrozenUsage(month, version, directory / version, manifest)

    def _keep_supplement(self, frozen: FrozenUsage, name: str, manifest: Manifest, unfinished: Path) -> None:
        keep(manifest, unfinished, frozen.directory / name)

    def _remove(self, directory: Path, version: str) -> None:
        # Out of sight in one step, so that no half version is ever found.
        doomed = directory / f"{UNFINISHED_PREFIX}{version}"
        (directory / version).rename(doomed)
        shutil.rmtree(doomed)

    def _missing(self, month: Month, version: str) -> UsageError | StoreError:
        return UsageError(
            f"The frozen usage {month}/{version} is not in {self._root}.",
            remedy="Restore its directory from a backup. What was billed from it is in the ledger.",
        )

    @contextmanager
    def _locked(self, month: Month) -> Iterator[Path]:
        directory = self._root / str(month)
        # The operating system releases it when its holder dies.
        lock = FileLock(directory / _LOCK_FILE, timeout=self._lock_timeout_seconds)
        with usable_folder(directory, _SETTINGS):
            sync(self._root)
            try:
                lock.acquire()
            except Timeout as error:
                raise UsageError(
                    f"Another process has been freezing {month} in {directory} for over "
                    f"{self._lock_timeout_seconds:.0f} seconds.",
                    remedy="Wait for it, or end it, and run this again.",
                ) from error
        try:
            remove_leftovers(directory)
            yield directory
        finally:
            lock.release()


def open_usage_store(
    place: Path | BucketPlace, *, lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS
) -> UsageStore:
    """Return the store at a place; nothing is read or written before the first call."""
    if isinstance(place, Path):
        return UsageStore(place, lock_timeout_seconds=lock_timeout_seconds)
    from spell_billing.usage.bucket_store import BucketUsageStore  # noqa: PLC0415 - not for a folder

    return BucketUsageStore(place, lock_timeout_seconds=lock_timeout_seconds)
