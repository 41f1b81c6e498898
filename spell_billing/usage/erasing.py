"""Replaces a user's id by a pseudonym in the files of a frozen version; counts and sums stay as they are.

New files appear beside the old ones, then the manifest that names them takes the place of the old manifest in
one step. Whatever a killed erasure left behind, the next one removes.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from spell_billing.core.erasure import Erasure
from spell_billing.core.errors import IntegrityError
from spell_billing.core.month import Month
from spell_billing.usage.aggregate import aggregate
from spell_billing.usage.disk import finished_file, sync
from spell_billing.usage.duck import SPILL_PREFIX, open_duckdb, parquet_list, write_parquet
from spell_billing.usage.frozen import (
    MANIFEST_FILE,
    RATE_CARDS_FILE,
    USER_ITEMS_FILE,
    USER_USAGE_FILE,
    ErasedUser,
    FrozenFile,
    FrozenUsage,
    Manifest,
)
from spell_billing.usage.manifest import files_of, write_manifest
from spell_billing.usage.store import UsageStore

_USER = "user_id"
_SHORTEST_NAME = 4
_NAMED_ITEMS = 5


def names_user(store: UsageStore, user_id: str) -> bool:
    """Return whether any frozen file names a user."""
    return any(_version_names(each, user_id) for each in _versions(store))


def items_naming(store: UsageStore, user_id: str) -> list[str]:
    """Return some items of frozen usage whose text holds a user's id, as a path does; they are on invoices.

    A short id is not looked for: it stands in many texts by chance.
    """
    found: set[str] = set()
    for frozen in _versions(store) if len(user_id) >= _SHORTEST_NAME else ():
        path = frozen.directory / USER_ITEMS_FILE
        if path.exists():
            query = f"SELECT DISTINCT item FROM {parquet_list([path])} WHERE contains(item, $user_id) LIMIT 5"
            with open_duckdb(path.parent) as duck:
                found.update(item for (item,) in duck.execute(query, {"user_id": user_id}).fetchall())
    return sorted(found)[:_NAMED_ITEMS]


def erase_in_store(store: UsageStore, erasure: Erasure, *, until: Month) -> int:
    """Replace a user's id in every frozen file; amounts stay. To be repeated after a crash.

    Args:
        store: The frozen usage.
        erasure: Which id, and what takes its place.
        until: The last month that could be frozen meanwhile: while files change, none is.

    Returns:
        How many versions have the pseudonym now.

    Raises:
        IntegrityError: a file is not what was frozen, or the new one does not add up to the old one.
        UsageError: a version is damaged, or a month is being frozen.
    """
    with store.locked({*store.months(), until}):
        return sum(_erase_in_version(store, each, erasure) for each in _versions(store))


def _versions(store: UsageStore) -> Iterator[FrozenUsage]:
    for month in store.months():
        for version in store.versions(month):
            frozen = store.version(month, version)
            store.fetch(frozen)
            yield frozen


def _version_names(frozen: FrozenUsage, user_id: str) -> bool:
    parts = (frozen, *frozen.supplements)
    # Whether the manifest names them or not: a killed erasure leaves files behind.
    return any(
        _names(path, user_id)
        for part in parts
        for path in part.directory.glob("*.parquet")
        if path.name != RATE_CARDS_FILE
    )


def _erase_in_version(store: UsageStore, frozen: FrozenUsage, erasure: Erasure) -> bool:
    """Replace the id in all files of a version; return whether the pseudonym is in one now."""
    if _version_names(frozen, erasure.user_id):
        # What was altered must not get a hash that says it was not.
        store.verify(frozen)
    parts = (frozen, *frozen.supplements)
    manifests = [_erase_in_directory(store, each, erasure) for each in parts]
    summed = (frozen.directory / name for name in (USER_USAGE_FILE, USER_ITEMS_FILE))
    if any(path.exists() and _names(path, erasure.user_id) for path in summed):
        aggregate(replace(frozen, manifest=manifests[0]))
    for each, manifest in zip(parts, manifests, strict=True):
        _remove_unnamed(each.directory, manifest)
        store.remove_unnamed(each, manifest)
    return any(one.pseudonym == erasure.pseudonym for each in manifests for one in each.erased)


def _erase_in_directory(store: UsageStore, frozen: FrozenUsage, erasure: Erasure) -> Manifest:
    manifest, directory = frozen.manifest, frozen.directory
    changed = manifest
    if any(_names(path, erasure.user_id) for path in frozen.paths):
        # An id that is a uuid has another type than the pseudonym: all files of a version have one.
        files = tuple(_renamed(directory, file, erasure) for file in manifest.files)
        changed = replace(changed, files=files)
        _require_equal_sums(frozen, changed)
    late = manifest.late
    if late is not None and _names(directory / late.file.name, erasure.user_id):
        file = _renamed(directory, late.file, erasure, order=f"ORDER BY usage_month, {_USER}")
        changed = replace(changed, late=replace(late, file=file))
    plans = manifest.plans
    if plans is not None and _names(directory / plans.name, erasure.user_id):
        changed = replace(changed, plans=_renamed(directory, plans, erasure))
    rates = manifest.rates
    if rates and rates.plans is not None and _names(directory / rates.plans.name, erasure.user_id):
        renamed = _renamed(directory, rates.plans, erasure, order=f"ORDER BY {_USER}")
        changed = replace(changed, rates=replace(rates, plans=renamed))
    if changed is manifest:
        return manifest
    erased = ErasedUser(erasure.pseudonym, datetime.now(UTC))
    changed = replace(changed, erased=(*manifest.erased, erased))
    _replace_manifest(directory, changed)
    store.keep_replaced(frozen, changed)
    return changed


def _renamed(directory: Path, file: FrozenFile, erasure: Erasure, *, order: str = "") -> FrozenFile:
    """Write a file anew under the name of the pseudonym, with the pseudonym in the user's place."""
    path = directory / f"{file.name.partition('.')[0]}.{erasure.pseudonym}.parquet"
    path.unlink(missing_ok=True)
    user = f"if({_USER}::VARCHAR = $user_id, $pseudonym, {_USER}::VARCHAR) AS {_USER}"
    with open_duckdb(directory.parent) as duck:
        write_parquet(
            duck,
            f"SELECT * REPLACE ({user}) FROM {parquet_list([directory / file.name])} {order}",
            path,
            {"user_id": erasure.user_id, "pseudonym": erasure.pseudonym},
        )
    return finished_file(path, file.rows)


def _require_equal_sums(frozen: FrozenUsage, changed: Manifest) -> None:
    sums = []
    with open_duckdb(frozen.directory.parent) as duck:
        # The new files are on this machine alone until their sums are right.
        for each in (frozen, replace(frozen, manifest=changed, keeper=None)):
            query = "SELECT count(*), sum(cost_cents), count(DISTINCT user_id::VARCHAR) FROM "
            sums.append(duck.execute(query + parquet_list(each.paths)).fetchone())
    if sums[0] != sums[1]:
        raise IntegrityError(
            f"{frozen.month}/{frozen.version}: with the pseudonym the rows are {sums[1]}, not {sums[0]}.",
            remedy="Nothing was replaced there; verify the frozen files, then erase again.",
        )


def _names(path: Path, user_id: str) -> bool:
    with open_duckdb(path.parent) as duck:
        query = f"SELECT 1 FROM {parquet_list([path])} WHERE {_USER}::VARCHAR = $user_id LIMIT 1"
        return duck.execute(query, {"user_id": user_id}).fetchone() is not None


def _replace_manifest(directory: Path, manifest: Manifest) -> None:
    with tempfile.TemporaryDirectory(prefix=SPILL_PREFIX, dir=directory.parent) as workplace:
        write_manifest(manifest, Path(workplace))
        new = Path(workplace) / MANIFEST_FILE
        sync(new)
        new.replace(directory / MANIFEST_FILE)
    sync(directory)


def _remove_unnamed(directory: Path, manifest: Manifest) -> None:
    named = {file.name for file in files_of(manifest)} | {USER_USAGE_FILE, USER_ITEMS_FILE}
    unnamed = [path for path in directory.glob("*.parquet") if path.name not in named]
    for path in unnamed:
        path.unlink()
    if unnamed:
        sync(directory)
