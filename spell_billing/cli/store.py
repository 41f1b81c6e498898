"""The store of frozen usage: `store-test`, `copy-usage`."""

from pathlib import Path

import click

from spell_billing.cli.common import say
from spell_billing.core.errors import SettingsError


@click.command("store-test")
def store_test() -> None:
    """Write, read and remove something in the store of frozen usage, and say whether it can be billed from.

    In a bucket also that two machines cannot both write one name. Nothing frozen is touched.
    """
    from spell_billing.settings.billing import Settings  # noqa: PLC0415
    from spell_billing.usage.store import open_usage_store  # noqa: PLC0415 - heavy: DuckDB

    say(open_usage_store(Settings.from_environment().usage_store).test())


@click.command("copy-usage")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def copy_usage(folder: Path) -> None:
    """Copy every month frozen in FOLDER into the bucket of SPELL_BILLING_USAGE_STORE. Safe to repeat.

    Each file is verified before; a version is seen when it is whole. FOLDER is left as it is.
    """
    from spell_billing.settings.billing import Settings  # noqa: PLC0415
    from spell_billing.settings.usage_place import BucketPlace  # noqa: PLC0415
    from spell_billing.usage.bucket_store import BucketUsageStore  # noqa: PLC0415 - heavy: DuckDB
    from spell_billing.usage.store import UsageStore  # noqa: PLC0415

    place, source = Settings.from_environment().usage_store, UsageStore(folder)
    if not isinstance(place, BucketPlace):
        raise SettingsError(
            "SPELL_BILLING_USAGE_STORE names no bucket.", remedy="Set it to s3://bucket/prefix, then copy."
        )
    store, versions, copied = BucketUsageStore(place), 0, 0
    for month in source.months():
        for name in source.versions(month):
            version = source.version(month, name)
            source.verify(version)
            copied += store.take(version)
            versions += 1
    say(f"{versions} frozen versions are in {place.url}; {copied} of them are new there.")
