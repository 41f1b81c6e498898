"""The objects of a bucket at S3, Google Cloud Storage or Azure: each is there whole, or not at all.

Credentials come from the environment, as these services' own tools read them. An error says in words what was
refused, and repeats nothing of the answer: it may hold names of keys and signed addresses.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
from obstore import exceptions as refusals
from obstore.store import from_url

from spell_billing.core.errors import StoreError, StoreInterruptedError

if TYPE_CHECKING:
    from obstore import ObjectMeta, UpdateVersion
    from obstore.store import ClientConfig, RetryConfig

_RETRIES: "RetryConfig" = {"max_retries": 4, "retry_timeout": timedelta(seconds=120)}
_PART_BYTES = 8 << 20
_PARTS_AT_ONCE = 4
_NO_BUCKET = frozenset({"NoSuchBucket", "ContainerNotFound", "InvalidBucketName"})
_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
_PASSING_STATUS = frozenset({"408", "409", "429"})
_METADATA_SERVICE = "169.254.169.254"


class Bucket:
    """A bucket, or a folder in one; keys are relative to it.

    Raises:
        StoreError: from each method, when the service refuses the credentials, or has no such bucket.
        StoreInterruptedError: likewise, when it does not answer.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        client: ClientConfig = {
            "allow_http": os.environ.get("AWS_ALLOW_HTTP", "").lower() == "true",
            "connect_timeout": timedelta(seconds=5),
            # Of one request, which moves 8 MiB at most: a network slower than 100 kB a second is none.
            "timeout": timedelta(seconds=90),
        }
        # SHA-256 goes with each part, and S3 refuses one that arrived altered.
        config: Any = {"checksum_algorithm": "sha256"} if url.startswith("s3:") else None
        with self._in_words("open it"):
            self._store = from_url(url, config=config, client_options=client, retry_config=_RETRIES)

    def read(self, key: str) -> bytes | None:
        """Return an object; None where there is none."""
        found = self.read_tagged(key)
        return found[0] if found else None

    def read_tagged(self, key: str) -> "tuple[bytes, UpdateVersion] | None":
        """Return an object, and what `replace` knows it by; None where there is none."""
        with self._in_words("read objects"):
            try:
                answer = obstore.get(self._store, key)
                return answer.bytes().to_bytes(), _tag(answer.meta)
            except FileNotFoundError as error:
                if _NO_BUCKET & set(_CODE.findall(str(error))):
                    raise
                return None

    def tag(self, key: str) -> str | None:
        """Return what changes with an object's content; None where there is no object."""
        with self._in_words("read objects"):
            try:
                return obstore.head(self._store, key)["e_tag"] or ""
            except FileNotFoundError:
                return None

    def create(self, key: str, content: bytes) -> bool:
        """Write an object that is not there yet; return whether it is ours now."""
        with self._in_words("write objects"):
            try:
                obstore.put(self._store, key, content, mode="create", use_multipart=False)
            except refusals.AlreadyExistsError:
                # The answer to an earlier try may have been lost.
                return self.read(key) == content
            return True

    def replace(self, key: str, content: bytes, tag: "UpdateVersion") -> bool:
        """Write over an object if it is still the one that was read; return whether it is ours now."""
        with self._in_words("write objects"):
            try:
                obstore.put(self._store, key, content, mode=tag, use_multipart=False)
            except refusals.PreconditionError:
                return self.read(key) == content
            return True

    def write(self, key: str, content: bytes) -> None:
        """Write a small object, over another if there is one."""
        with self._in_words("write objects"):
            obstore.put(self._store, key, content, use_multipart=False)

    def upload(self, key: str, path: Path) -> str:
        """Write a file as an object, which appears when it is whole; return its tag."""
        with self._in_words("write objects"):
            put = obstore.put(self._store, key, path, chunk_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE)
            return put["e_tag"] or ""

    def download(self, key: str, path: Path) -> tuple[str, str] | None:
        """Copy an object into a file; return its SHA-256 and tag, or None where there is none."""
        with self._in_words("read objects"):
            try:
                meta, digest = obstore.head(self._store, key), hashlib.sha256()
                with path.open("wb") as file:
                    for start in range(0, meta["size"], _PART_BYTES):
                        end = min(start + _PART_BYTES, meta["size"])
                        part = obstore.get_range(self._store, key, start=start, end=end)
                        digest.update(part)
                        file.write(part)
            except FileNotFoundError as error:
                if _NO_BUCKET & set(_CODE.findall(str(error))):
                    raise
                return None
            return digest.hexdigest(), meta["e_tag"] or ""

    def names(self, prefix: str) -> list[tuple[str, datetime]]:
        """List the keys below a prefix, with the time each was written."""
        with self._in_words("list objects"):
            found = obstore.list(self._store, prefix).collect()
            return [(each["path"], each["last_modified"]) for each in found]

    def size_bytes(self, prefix: str) -> int:
        """Return what the objects below a prefix take."""
        with self._in_words("list objects"):
            return sum(each["size"] for each in obstore.list(self._store, prefix).collect())

    def folders(self) -> list[str]:
        """List the first parts of all keys that have several."""
        with self._in_words("list objects"):
            return [str(name) for name in obstore.list_with_delimiter(self._store)["common_prefixes"]]

    def delete(self, *keys: str) -> None:
        """Remove objects; those that are not there are no error."""
        with self._in_words("delete objects"):
            try:
                obstore.delete(self._store, list(keys))
            except FileNotFoundError:
                return

    @contextmanager
    def _in_words(self, what: str) -> Iterator[None]:
        # FileNotFoundError and other errors of the system pass: a disk that is full is no refusal.
        try:
            yield
        except (refusals.PermissionDeniedError, refusals.UnauthenticatedError) as error:
            code = "".join(f" ({code})" for code in _CODE.findall(str(error))[:1])
            raise StoreError(
                f"{self.url} does not let these credentials {what}{code}.",
                remedy="Let them list, read, write and delete objects there: docs/deploy.md says how.",
            ) from None
        except (refusals.BaseError, FileNotFoundError) as error:
            raise self._other(str(error)) from None

    def _other(self, text: str) -> StoreError:
        codes, status = _CODE.findall(text), _STATUS.search(text)
        if _NO_BUCKET & set(codes) or (status and status[1] == "404"):
            return StoreError(
                f"The bucket of {self.url} does not exist.",
                remedy="Create it, or correct SPELL_BILLING_USAGE_STORE or the region in AWS_REGION.",
            )
        if _METADATA_SERVICE in text:
            return StoreError(
                f"There are no credentials for {self.url}.",
                remedy="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role.",
            )
        if status and status[1].startswith("4") and status[1] not in _PASSING_STATUS:
            return StoreError(
                f"{self.url} refuses the request: {' '.join(codes) or status[1]}.",
                remedy="Check the address, the region and the credentials: docs/deploy.md says how.",
            )
        return StoreInterruptedError(
            f"{self.url} does not answer{f' (status {status[1]})' if status else ''}.",
            remedy="Check that the network reaches it, and run this again; nothing half is kept.",
        )


def _tag(meta: "ObjectMeta") -> "UpdateVersion":
    tag: UpdateVersion = {}
    if meta["e_tag"] is not None:
        tag["e_tag"] = meta["e_tag"]
    if meta["version"] is not None:
        tag["version"] = meta["version"]
    return tag
