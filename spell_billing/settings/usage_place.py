"""Where frozen usage is kept: a folder on this machine's disk, or a bucket that several machines share."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from spell_billing.core.errors import SettingsError

SETTING = "SPELL_BILLING_USAGE_STORE"
_SCHEMES = frozenset({"s3", "gs", "az", "abfs", "abfss"})
_ANY_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_NOT_IN_NAMES = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True)
class BucketPlace:
    """A bucket, or a folder in one, as `s3://bucket/prefix`.

    Attributes:
        url: Without a slash at the end. It holds no secret.
        home: The folder of this machine's files; copies of what is in the bucket are kept in it.
    """

    url: str
    home: Path

    @property
    def cache(self) -> Path:
        """The folder for copies of the bucket's files. Nothing is lost with it."""
        name = _NOT_IN_NAMES.sub("-", self.url.lower())
        return self.home / "usage-cache" / f"{name}-{hashlib.sha256(self.url.encode()).hexdigest()[:8]}"

    @property
    def local_folder(self) -> Path:
        """Where this machine keeps frozen usage when the setting names no bucket."""
        return self.home / "usage"


def bucket_place(text: str, home: Path) -> BucketPlace | None:
    """Read the address of a bucket; None when the text is a path.

    Raises:
        SettingsError: it is an address, and not one of a bucket. It never repeats a secret.
    """
    if not _ANY_SCHEME.match(text):
        return None
    remedy = "Write s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, or a path."
    try:
        parts = urlsplit(text)
    except ValueError:
        raise SettingsError(f"{SETTING} is not an address of a bucket.", remedy=remedy) from None
    if parts.scheme.lower() not in _SCHEMES:
        raise SettingsError(f"{SETTING} begins with {parts.scheme}://, which is no bucket.", remedy=remedy)
    at_account = parts.scheme.lower().startswith("abfs") and "@" in parts.netloc
    if parts.query or parts.fragment or parts.password or ("@" in parts.netloc and not at_account):
        raise SettingsError(
            f"{SETTING} has more in it than a bucket and a prefix.",
            remedy="Credentials belong into the environment: see docs/deploy.md. " + remedy,
        )
    if not parts.hostname:
        raise SettingsError(f"{SETTING} names no bucket.", remedy=remedy)
    return BucketPlace(f"{parts.scheme.lower()}://{parts.netloc}{parts.path}".rstrip("/"), home)
