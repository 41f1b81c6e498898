"""The files of frozen versions in a bucket, and their copies on this machine.

An object's name has its content's hash in it, so that two writers of a name write the same. A copy is
believed while its mark says which object it was made of.
"""

import uuid
from dataclasses import dataclass
from pathlib import Path

from spell_billing.core.errors import IntegrityError, UsageError
from spell_billing.usage.bucket import Bucket
from spell_billing.usage.disk import sha256_of
from spell_billing.usage.frozen import MANIFEST_FILE, RESTORE_FILE, FrozenFile, FrozenUsage
from spell_billing.usage.user_usage import HASH_SUFFIX


@dataclass(frozen=True, slots=True)
class BucketFiles:
    """Keeps the files of versions whose directories only have copies of them.

    Raises:
        IntegrityError: from each method, when what is kept is missing or altered.
        StoreError: likewise, when it cannot be reached.
    """

    bucket: Bucket

    def uri(self, frozen: FrozenUsage) -> str:
        """Return where the version is kept."""
        return f"{self.bucket.url}/{key_of(frozen)}"

    def fetch(self, frozen: FrozenUsage, file: FrozenFile) -> None:
        """Copy a file into the version's directory, unless it is there."""
        path = frozen.directory / file.name
        if not path.exists() or _marked(path)[0] != file.sha256:
            self._copy(frozen, file)

    def verify(self, frozen: FrozenUsage, file: FrozenFile) -> None:
        """Check that the object is the one that the copy was made of, and the copy what was frozen.

        Raises:
            IntegrityError: naming the object that is missing or altered.
        """
        self.fetch(frozen, file)
        path, key = frozen.directory / file.name, object_key(key_of(frozen), file.name, file.sha256)
        if _marked(path) != (file.sha256, self.bucket.tag(key)) or sha256_of(path) != file.sha256:
            self._copy(frozen, file)

    def publish(self, key: str, file: FrozenFile, path: Path, *, marked: bool = True) -> None:
        """Write a file's object; mark the file as its copy."""
        tag = self.bucket.upload(object_key(key, file.name, file.sha256), path)
        if marked:
            _mark(path, file.sha256, tag)

    def fetch_sums(self, frozen: FrozenUsage, name: str) -> None:
        """Copy what was aggregated, and its hash, into the version's directory; remove what is not kept."""
        path = frozen.directory / name
        hash_path = path.with_suffix(HASH_SUFFIX)
        kept = self.bucket.read(f"{key_of(frozen)}/{hash_path.name}")
        if kept is None:
            hash_path.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            return
        sha256 = kept.decode("ascii", "replace").partition(" ")[0]
        self.fetch(frozen, FrozenFile(name, sha256, 0))
        hash_path.write_bytes(kept)

    def keep_sums(self, frozen: FrozenUsage, name: str) -> None:
        """Keep what was aggregated, and then its hash, as the version's directory has them."""
        self.publish_sums(key_of(frozen), frozen.directory / name)

    def publish_sums(self, key: str, path: Path, *, marked: bool = True) -> None:
        """Write the object of what was aggregated, and then the one that names it."""
        hash_path = path.with_suffix(HASH_SUFFIX)
        kept = hash_path.read_bytes()
        sha256 = kept.decode("ascii").partition(" ")[0]
        self.publish(key, FrozenFile(path.name, sha256, 0), path, marked=marked)
        self.bucket.write(f"{key}/{hash_path.name}", kept)

    def _copy(self, frozen: FrozenUsage, file: FrozenFile) -> None:
        path, key = frozen.directory / file.name, object_key(key_of(frozen), file.name, file.sha256)
        where = f"{self.bucket.url}/{key}"
        unfinished = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
        try:
            found = self.bucket.download(key, unfinished)
            if found is None:
                if self.bucket.tag(f"{key_of(frozen)}/{MANIFEST_FILE}") is None:
                    raise UsageError(f"{self.uri(frozen)} was removed meanwhile.", remedy="Run this again.")
                raise IntegrityError(f"The frozen file {where} is missing.", remedy=RESTORE_FILE)
            sha256, tag = found
            if sha256 != file.sha256:
                raise IntegrityError(f"The frozen file {where} is not what was frozen.", remedy=RESTORE_FILE)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        _mark(path, sha256, tag)


def key_of(frozen: FrozenUsage) -> str:
    """Return what the keys of a version's objects begin with."""
    return f"{frozen.month}/{frozen.version}"


def object_key(key: str, name: str, sha256: str) -> str:
    """Return the key of a file's object in a version."""
    stem, _, kind = name.rpartition(".")
    return f"{key}/{stem}.{sha256}.{kind}"


def _mark(path: Path, sha256: str, tag: str) -> None:
    _mark_of(path).write_text(f"{sha256} {tag}", encoding="utf-8")


def _marked(path: Path) -> tuple[str, str | None]:
    try:
        sha256, _, tag = _mark_of(path).read_text(encoding="utf-8").partition(" ")
    except FileNotFoundError:
        return "", None
    return sha256, tag


def _mark_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.copied")
