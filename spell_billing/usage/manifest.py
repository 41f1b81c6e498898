"""The manifest as JSON: written once beside the frozen files, read back exactly."""

import json
from decimal import Decimal
from pathlib import Path

from pydantic import TypeAdapter

from spell_billing.core.errors import MonthError, UsageError
from spell_billing.core.month import Month
from spell_billing.usage.frozen import MANIFEST_FILE, RESTORE_FILE, FrozenFile, FrozenRates, Manifest

FORMAT_VERSION = 1
RATED_FORMAT_VERSION = 2
"""Of a month with rate cards: a program that does not know them would charge its stored cost."""
SUMMED_FORMAT_VERSION = 3
"""Of a month that an engine added up: a program that does not know it would take a sum for one call."""
_MANIFEST = TypeAdapter(Manifest)


def format_version_of(rates: FrozenRates | None, fingerprint: Decimal | None) -> int:
    """Return the lowest format that tells all of a month."""
    if fingerprint is not None:
        return SUMMED_FORMAT_VERSION
    return FORMAT_VERSION if rates is None else RATED_FORMAT_VERSION


def write_manifest(manifest: Manifest, directory: Path) -> None:
    """Write `manifest.json`, without what has its default."""
    content = _MANIFEST.dump_json(manifest, indent=2, exclude_defaults=True)
    (directory / MANIFEST_FILE).write_bytes(content + b"\n")


def read_manifest(directory: Path) -> Manifest:
    """Read `manifest.json` of a version; what an older one lacks gets its default.

    Raises:
        UsageError: the file is missing, damaged, or of a format this program does not know.
    """
    path = directory / MANIFEST_FILE
    try:
        return parse_manifest(path.read_bytes(), str(path))
    except FileNotFoundError as error:
        raise UsageError(f"{path} is missing.", remedy=RESTORE_FILE) from error


def parse_manifest(content: bytes, where: str) -> Manifest:
    """Read what a `manifest.json` holds; `where` names it in errors, which are those of `read_manifest`."""
    try:
        version = json.loads(content)["format_version"]
        if version not in {FORMAT_VERSION, RATED_FORMAT_VERSION, SUMMED_FORMAT_VERSION}:
            raise UsageError(
                f"{where} has format {version}, and this program reads up to {SUMMED_FORMAT_VERSION}.",
                remedy="Use the program version that froze the month, or a later one.",
            )
        return _MANIFEST.validate_json(content, strict=True)
    except (ValueError, KeyError, TypeError, MonthError) as error:
        raise UsageError(f"{where} is damaged: {error}.", remedy=RESTORE_FILE) from error


def of_month(month: Month, manifest: Manifest, where: str) -> Manifest:
    """Return a manifest that must be a month's; a UsageError where it is another's."""
    if manifest.month != month:
        raise UsageError(
            f"{where} holds the usage of {manifest.month}, not of {month}.",
            remedy="Restore the directory from a backup.",
        )
    return manifest


def files_of(manifest: Manifest) -> list[FrozenFile]:
    """Return every file that a manifest names."""
    late, rates = manifest.late, manifest.rates
    of_rates = [rates.cards, rates.plans] if rates else []
    beside = [late.file if late else None, manifest.plans, *of_rates]
    return [*manifest.files, *(file for file in beside if file is not None)]
