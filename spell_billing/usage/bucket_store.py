"""Keeps frozen months in a bucket that several machines share; this machine has copies to read from.

A version appears with its manifest, which is written last, and only where no other is: of two machines that
freeze a month at once, each makes a version of its own. What a list says is completed by asking for the next
name, for lists of some services lag.
"""

import re
import shutil
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from spell_billing.core.errors import IntegrityError, StoreError, StoreInterruptedError, UsageError
from spell_billing.core.month import Month
from spell_billing.settings.usage_place import BucketPlace
from spell_billing.usage.bucket import Bucket
from spell_billing.usage.bucket_files import BucketFiles, key_of, object_key
from spell_billing.usage.frozen import MANIFEST_FILE, USER_ITEMS_FILE, USER_USAGE_FILE, FrozenUsage, Manifest
from spell_billing.usage.manifest import files_of, of_month, parse_manifest, write_manifest
from spell_billing.usage.store import (
    LOCK_TIMEOUT_SECONDS,
    UsageStore,
)
from spell_billing.usage.user_usage import HASH_SUFFIX
from spell_billing.usage.version_names import next_version, sorted_months, sorted_versions

_SUMS = (USER_USAGE_FILE, USER_ITEMS_FILE)
_LAST_ERASURE = "last-erasure"
_MOST_NAMES = 5
# No upload takes a day; younger objects without a manifest may belong to one.
_LEFTOVER = timedelta(days=1)
_MANIFEST_OF_VERSION = re.compile(rf"[^/]+/(v\d{{4,}})/{re.escape(MANIFEST_FILE)}")


class BucketUsageStore(UsageStore):
    """The versions of each month under `s3://bucket/prefix/2026-10/v0001/`.

    Args:
        place: The bucket, and where copies are kept.
        lock_timeout_seconds: How long one freeze of a month waits for another of this machine.
    """

    _keeper: BucketFiles

    def __init__(self, place: BucketPlace, *, lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS) -> None:
        super().__init__(place.cache, lock_timeout_seconds=lock_timeout_seconds)
        self._place = place
        self._bucket = Bucket(place.url)
        self._keeper = BucketFiles(self._bucket)

    def versions(self, month: Month) -> list[str]:
        """List the month's versions, oldest first."""
        names = (_MANIFEST_OF_VERSION.fullmatch(name) for name, _ in self._bucket.names(str(month)))
        found = sorted_versions(name[1] for name in names if name)
        while self._bucket.tag(f"{month}/{next_version(found)}/{MANIFEST_FILE}") is not None:
            found.append(next_version(found))
        return found

    def version(self, month: Month, version: str) -> FrozenUsage:
        """Return one version, with a directory for copies of its files.

        Raises:
            UsageError: it is not there, or its manifest is damaged.
            StoreError: it was frozen on this machine, before the bucket was the store.
        """
        frozen = super().version(month, version)
        for each in (frozen, *frozen.supplements):
            each.directory.mkdir(parents=True, exist_ok=True)
        return frozen

    def fetch(self, frozen: FrozenUsage) -> None:
        """See that all files of a version are in its directory."""
        for each in (frozen, *frozen.supplements):
            for file in files_of(each.manifest):
                self._keeper.fetch(each, file)
        for name in _SUMS:
            self._keeper.fetch_sums(frozen, name)

    def keep_replaced(self, frozen: FrozenUsage, manifest: Manifest) -> None:
        """Keep the manifest that took the place of another in a version's directory, with the new files."""
        key = f"{key_of(frozen)}/{MANIFEST_FILE}"
        before = self._bucket.read_tagged(key)
        is_same = before is not None and parse_manifest(before[0], key) == frozen.manifest
        for file in set(files_of(manifest)) - set(files_of(frozen.manifest)):
            self._keeper.publish(key_of(frozen), file, frozen.directory / file.name)
        content = (frozen.directory / MANIFEST_FILE).read_bytes()
        if before is None or not is_same or not self._bucket.replace(key, content, before[1]):
            raise StoreInterruptedError(
                f"{self._keeper.uri(frozen)} was changed by another process meanwhile.",
                remedy="Run this again.",
            )

    def remove_unnamed(self, frozen: FrozenUsage, manifest: Manifest) -> None:
        """Remove objects of a version that neither the manifest nor what was aggregated names."""
        key = key_of(frozen)
        named = {f"{key}/{MANIFEST_FILE}"}
        named |= {object_key(key, file.name, file.sha256) for file in files_of(manifest)}
        for name in _SUMS:
            pointer = f"{key}/{Path(name).with_suffix(HASH_SUFFIX)}"
            sums = self._bucket.read(pointer)
            if sums is not None:
                named |= {pointer, object_key(key, name, sums.decode("ascii", "replace").partition(" ")[0])}
        found = (name for name, _ in self._bucket.names(key) if name.rpartition("/")[0] == key)
        self._bucket.delete(*(name for name in found if name not in named))

    def size_bytes(self, month: Month, version: str) -> int:
        """Return what a version takes in the bucket, with its supplements."""
        return self._bucket.size_bytes(f"{month}/{version}")

    def months(self) -> list[Month]:
        """List the months that were frozen, oldest first."""
        return sorted_months(self._bucket.folders())

    @contextmanager
    def locked(self, months: Collection[Month]) -> Iterator[None]:
        """Keep every other process of this machine from the months; those of others start anew."""
        with super().locked(months):
            self._bucket.write(_LAST_ERASURE, uuid.uuid4().hex.encode())
            yield

    def test(self) -> str:
        """Write, read, list and remove an object of no month; say in words what the store can do.

        Raises:
            StoreError: something of it is not allowed, or two writers of one name would both succeed.
        """
        key, content = f"test-{uuid.uuid4().hex}/{MANIFEST_FILE}", b"written to test the store"
        try:
            self._bucket.create(key, content)
            is_kept = not self._bucket.create(key, b"another") and self._bucket.read(key) == content
            is_listed = key in {name for name, _ in self._bucket.names(key.partition("/")[0])}
        finally:
            self._bucket.delete(key)
        if not is_kept or not is_listed:
            raise StoreError(
                f"{self._place.url} {'let a second writer replace' if is_listed else 'does not list'} an "
                "object that was just written.",
                remedy="Use a service that keeps conditional writes and lists what was written, as S3 does.",
            )
        return (
            f"{self._place.url}: an object was written, read, listed and removed; a second writer is refused."
        )

    def take(self, frozen: FrozenUsage) -> bool:
        """Copy a verified version of another store; return whether it was not here yet.

        Raises:
            IntegrityError: another one of this name is here.
        """
        key, is_new = key_of(frozen), self._manifest(frozen.month, frozen.version) is None
        for name in _SUMS:
            if (frozen.directory / name).exists():
                self._keeper.publish_sums(key, frozen.directory / name, marked=False)
        # A version must not be seen without its supplements.
        for each in (*frozen.supplements, frozen):
            if not self._publish(key_of(each), each.manifest, each.directory, marked=False):
                raise IntegrityError(
                    f"{self._place.url}/{key_of(each)} is another version than the one in {each.directory}.",
                    remedy="Copy into an empty prefix, or leave out the month that was frozen in both.",
                )
        return is_new

    def _keep_version(
        self, month: Month, manifest: Manifest, unfinished: Path, directory: Path
    ) -> FrozenUsage:
        self._remove_old_leftovers(month)
        write_manifest(manifest, unfinished)
        for _ in range(_MOST_NAMES):
            version = next_version(self.versions(month))
            if self._publish(f"{month}/{version}", manifest, unfinished):
                _take_place(unfinished, directory / version)
                return FrozenUsage(month, version, directory / version, manifest, keeper=self._keeper)
        raise StoreInterruptedError(
            f"Other machines took {_MOST_NAMES} names for {month} in {self._place.url} meanwhile.",
            remedy="End what freezes the month elsewhere, and run this again.",
        )

    def _keep_supplement(self, frozen: FrozenUsage, name: str, manifest: Manifest, unfinished: Path) -> None:
        write_manifest(manifest, unfinished)
        if not self._publish(f"{key_of(frozen)}/{name}", manifest, unfinished):
            raise StoreInterruptedError(
                f"Another run recorded what came since {frozen.month} was frozen.", remedy="Run this again."
            )
        _take_place(unfinished, frozen.directory / name)

    def _publish(self, key: str, manifest: Manifest, directory: Path, *, marked: bool = True) -> bool:
        """Write the objects of a directory, the manifest last; return whether the name was free."""
        for file in files_of(manifest):
            self._keeper.publish(key, file, directory / file.name, marked=marked)
        return self._bucket.create(f"{key}/{MANIFEST_FILE}", (directory / MANIFEST_FILE).read_bytes())

    def _remove(self, directory: Path, version: str) -> None:
        key = f"{directory.name}/{version}"
        # Out of sight first, so that no half version is ever found.
        self._bucket.delete(f"{key}/{MANIFEST_FILE}")
        self._bucket.delete(*(name for name, _ in self._bucket.names(key)))
        shutil.rmtree(directory / version, ignore_errors=True)

    def _last_erasure(self) -> bytes | None:
        return self._bucket.read(_LAST_ERASURE)

    def _remove_old_leftovers(self, month: Month) -> None:
        """Remove what an upload that was cut left behind."""
        found: dict[str, list[tuple[str, datetime]]] = {}
        for name, written_at in self._bucket.names(str(month)):
            found.setdefault(name.rpartition("/")[0], []).append((name, written_at))
        since = datetime.now(UTC) - _LEFTOVER
        for folder, objects in found.items():
            if (
                max(written_at for _, written_at in objects) < since
                and self._bucket.tag(f"{folder}/{MANIFEST_FILE}") is None
            ):
                self._bucket.delete(*(name for name, _ in objects))

    def _manifest(self, month: Month, version: str) -> Manifest | None:
        key = f"{month}/{version}/{MANIFEST_FILE}"
        content = self._bucket.read(key)
        where = f"{self._place.url}/{key}"
        return None if content is None else of_month(month, parse_manifest(content, where), where)

    def _missing(self, month: Month, version: str) -> StoreError | UsageError:
        folder = self._place.local_folder
        if (folder / str(month) / version / MANIFEST_FILE).is_file():
            return StoreError(
                f"{month} was frozen in {folder}, before SPELL_BILLING_USAGE_STORE was {self._place.url}.",
                remedy=f"Copy what was frozen with `spell-billing copy-usage {folder}`, and run this again.",
            )
        return UsageError(
            f"The frozen usage {month}/{version} is not in {self._place.url}.",
            remedy="Restore its objects from a backup, or copy the folder it was frozen in with "
            "`spell-billing copy-usage`. What was billed from it is in the ledger.",
        )


def _take_place(unfinished: Path, final: Path) -> None:
    # What is there is a copy of a version that the bucket had under this name once.
    shutil.rmtree(final, ignore_errors=True)
    unfinished.rename(final)
