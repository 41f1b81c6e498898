"""Replaces a user's id by a pseudonym in the files of a frozen version; counts and sums stay as they are.

New files appear beside the old ones, then the manifest that names them takes the place of the old manifest in
one step. Whatever a killed erasure left behind, the next one removes.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from spell_billing.core.erasure import Erasure
from spell_billing.core.errors import IntegrityError
from spell_billing.core.month import Month
from spell_billing.usage.aggregate import aggregate
from spell_billing.usage.contract import (
    MANIFEST_FILE,
    USER_USAGE_FILE,
    ErasedUser,
    FrozenFile,
    FrozenUsage,
    Manifest,
)
from spell_billing.usage.disk import sync_directory, sync_file
from spell_billing.usage.duck import SPILL_PREFIX, open_duckdb, parquet_list, quoted
from spell_billing.usage.manifest import write_manifest
from spell_billing.usage.row_writer import RowWriter, finished_file
from spell_billing.usage.store import UsageStore

_USER = "user_id"


def names_user(store: UsageStore, user_id: str) -> bool:
    """Tell whether any frozen file names a user."""
    return any(_version_names(each, user_id) for each in _versions(store))


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
            yield store.version(month, version)


def _version_names(frozen: FrozenUsage, user_id: str) -> bool:
    parts = (frozen, *frozen.supplements)
    # Whether the manifest names them or not: a killed erasure leaves files behind.
    return any(_names(path, user_id) for part in parts for path in part.directory.glob("*.parquet"))


def _erase_in_version(store: UsageStore, frozen: FrozenUsage, erasure: Erasure) -> bool:
    """Replace the id in all files of a version; tell whether the pseudonym is in one now."""
    if _version_names(frozen, erasure.user_id):
        # What was altered must not get a hash that says it was not.
        store.verify(frozen)
    parts = (frozen, *frozen.supplements)
    manifests = [_erase_in_directory(each, erasure) for each in parts]
    summed = frozen.directory / USER_USAGE_FILE
    if summed.exists() and _names(summed, erasure.user_id):
        aggregate(replace(frozen, manifest=manifests[0]))
    for each, manifest in zip(parts, manifests, strict=True):
        _remove_unnamed(each.directory, manifest)
    return any(one.pseudonym == erasure.pseudonym for each in manifests for one in each.erased)


def _erase_in_directory(frozen: FrozenUsage, erasure: Erasure) -> Manifest:
    manifest, directory = frozen.manifest, frozen.directory
    changed = manifest
    paths = [directory / file.name for file in manifest.files]
    if any(_names(path, erasure.user_id) for path in paths):
        # An id that is a uuid has another type than the pseudonym: all files of a version have one.
        changed = replace(
            changed, files=tuple(_new_rows(directory, file, erasure) for file in manifest.files)
        )
        _require_equal_sums(frozen, changed)
    late = manifest.late
    if late is not None and _names(directory / late.file.name, erasure.user_id):
        changed = replace(changed, late=replace(late, file=_new_late(directory, late.file, erasure)))
    if changed is manifest:
        return manifest
    erased = ErasedUser(erasure.pseudonym, datetime.now(UTC))
    changed = replace(changed, erased=(*manifest.erased, erased))
    _replace_manifest(directory, changed)
    return changed


def _new_rows(directory: Path, file: FrozenFile, erasure: Erasure) -> FrozenFile:
    path = _new_path(directory, file, erasure)
    with pq.ParquetFile(directory / file.name) as rows:
        place = rows.schema_arrow.get_field_index(_USER)
        field = pa.field(_USER, pa.string(), nullable=False)
        schema = rows.schema_arrow.set(place, field)

        def shape(batch: pa.RecordBatch) -> pa.Table:
            users = _as_text(batch.column(place))
            renamed = pc.if_else(pc.equal(users, erasure.user_id), erasure.pseudonym, users)
            return pa.Table.from_batches([batch]).set_column(place, field, renamed).cast(schema)

        with RowWriter(path, schema, shape=shape) as writer:
            try:
                for batch in rows.iter_batches():
                    writer.put(batch)
            except BaseException:
                writer.cancel()
                raise
    return writer.file


def _as_text(users: pa.Array) -> pa.Array:
    if isinstance(users, pa.ExtensionArray):
        return pa.array([None if each is None else str(each) for each in users.to_pylist()], pa.string())
    return users.cast(pa.string())


def _new_late(directory: Path, file: FrozenFile, erasure: Erasure) -> FrozenFile:
    path = _new_path(directory, file, erasure)
    renamed = f"if({_USER} = $user_id, $pseudonym, {_USER}) AS {_USER}"
    with open_duckdb(directory.parent) as duck:
        duck.execute(
            f"COPY (SELECT * REPLACE ({renamed}) FROM {parquet_list([directory / file.name])} "
            f"ORDER BY usage_month, {_USER}) TO {quoted(path)} (FORMAT parquet, COMPRESSION zstd)",
            {"user_id": erasure.user_id, "pseudonym": erasure.pseudonym},
        )
    return finished_file(path, file.rows)


def _new_path(directory: Path, file: FrozenFile, erasure: Erasure) -> Path:
    path = directory / f"{file.name.partition('.')[0]}.{erasure.pseudonym}.parquet"
    path.unlink(missing_ok=True)
    return path


def _require_equal_sums(frozen: FrozenUsage, changed: Manifest) -> None:
    sums = []
    for manifest in (frozen.manifest, changed):
        rows = parquet_list([frozen.directory / file.name for file in manifest.files])
        with open_duckdb(frozen.directory.parent) as duck:
            query = f"SELECT count(*), sum(cost_cents), count(DISTINCT {_USER}::VARCHAR) FROM {rows}"
            sums.append(duck.execute(query).fetchone())
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
        sync_file(new)
        new.replace(directory / MANIFEST_FILE)
    sync_directory(directory)


def _remove_unnamed(directory: Path, manifest: Manifest) -> None:
    named = {file.name for file in manifest.files} | {USER_USAGE_FILE}
    if manifest.late is not None:
        named.add(manifest.late.file.name)
    unnamed = [path for path in directory.glob("*.parquet") if path.name not in named]
    for path in unnamed:
        path.unlink()
    if unnamed:
        sync_directory(directory)
