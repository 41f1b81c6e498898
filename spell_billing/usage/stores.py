"""Opens the store of frozen usage that the setting names."""

from pathlib import Path

from spell_billing.settings.usage_place import BucketPlace
from spell_billing.usage.store import LOCK_TIMEOUT_SECONDS, UsageStore


def open_usage_store(
    place: Path | BucketPlace, *, lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS
) -> UsageStore:
    """Return the store; nothing is read or written before the first call."""
    if isinstance(place, Path):
        return UsageStore(place, lock_timeout_seconds=lock_timeout_seconds)
    from spell_billing.usage.bucket_store import BucketUsageStore  # noqa: PLC0415 - not for a folder

    return BucketUsageStore(place, lock_timeout_seconds=lock_timeout_seconds)
