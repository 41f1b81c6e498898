"""The manifest as JSON: written once beside the frozen files, read back exactly."""

import json
from dataclasses import fields, is_dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

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
    """Write `manifest.json`; amounts are decimal strings, so that no reader makes a float of them."""
    document = _members(manifest)
    if not manifest.erased:
        del document["erased"]
    for name in ("items_by", "rates", "plans", "fingerprint"):
        if document[name] is None:
            del document[name]
    text = json.dumps(document, indent=2, ensure_ascii=False, default=_as_json) + "\n"
    (directory / MANIFEST_FILE).write_text(text, encoding="utf-8")


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
        document = json.loads(content.decode())
        version = document["format_version"]
        if version not in {FORMAT_VERSION, RATED_FORMAT_VERSION, SUMMED_FORMAT_VERSION}:
            raise UsageError(
                f"{where} has format {version}, and this program reads up to {SUMMED_FORMAT_VERSION}.",
                remedy="Use the program version that froze the month, or a later one.",
            )
        return _MANIFEST.validate_json(json.dumps(document), strict=True)
    except (ValueError, KeyError, TypeError, MonthError) as error:
        raise UsageError(f"{where} is damaged: {error}.", remedy=RESTORE_FILE) from error


def files_of(manifest: Manifest) -> list[FrozenFile]:
    """Return every file that a manifest names."""
    late, rates = manifest.late, manifest.rates
    of_rates = [rates.cards, rates.plans] if rates else []
    beside = [late.file if late else None, manifest.plans, *of_rates]
    return [*manifest.files, *(file for file in beside if file is not None)]


def _members(value: Any) -> dict[str, Any]:
    return {each.name: getattr(value, each.name) for each in fields(value)}


def _as_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        return f"{value:f}"
    return _members(value) if is_dataclass(value) and not isinstance(value, Month) else str(value)
