"""The manifest as JSON: written once beside the frozen files, read back exactly."""

import json
from dataclasses import fields, is_dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from types import UnionType
from typing import Any, cast, get_args, get_origin, get_type_hints

from spell_billing.core.errors import MonthError, UsageError
from spell_billing.core.month import Month
from spell_billing.usage.contract import MANIFEST_FILE, Manifest

FORMAT_VERSION = 1

_AS_TEXT = {Month: Month.parse, datetime: datetime.fromisoformat, Decimal: Decimal}
"""Types that JSON lacks, and how their text is read."""


def write_manifest(manifest: Manifest, directory: Path) -> None:
    """Write `manifest.json`; amounts are decimal strings, so that no reader makes a float of them."""
    document = _plain(manifest)
    if not manifest.erased:
        del document["erased"]
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    (directory / MANIFEST_FILE).write_text(text, encoding="utf-8")


def read_manifest(directory: Path) -> Manifest:
    """Read `manifest.json` of a version.

    Raises:
        UsageError: the file is missing, damaged, or of a format this program does not know.
    """
    path = directory / MANIFEST_FILE
    remedy = "Restore the version's directory from a backup, or freeze the month again."
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        version = document["format_version"]
        if version != FORMAT_VERSION:
            raise UsageError(
                f"{path} has format {version}, and this program reads format {FORMAT_VERSION}.",
                remedy="Use the program version that froze the month, or a later one.",
            )
        return cast("Manifest", _typed(Manifest, document))
    except FileNotFoundError as error:
        raise UsageError(f"{path} is missing.", remedy=remedy) from error
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, MonthError) as error:
        raise UsageError(f"{path} is damaged: {error}.", remedy=remedy) from error


def _plain(value: Any) -> Any:
    """Turn a value of the manifest into one of JSON; a dataclass becomes an object with its fields."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, Month):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    return value


def _typed(kind: Any, value: Any) -> Any:
    """Turn a value of JSON back into one of its type; what an older manifest lacks gets its default."""
    if isinstance(kind, UnionType):
        return None if value is None else _typed(get_args(kind)[0], value)
    if kind in _AS_TEXT:
        return _AS_TEXT[kind](value)
    if get_origin(kind) is tuple:
        return tuple(_typed(get_args(kind)[0], each) for each in value)
    if isinstance(kind, type) and is_dataclass(kind):
        types = get_type_hints(kind)
        return kind(**{name: _typed(types[name], each) for name, each in value.items()})
    if type(value) is not kind:
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value
