"""The manifest as JSON: written once beside the frozen files, read back exactly."""

import json
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from spell_billing.core.errors import MonthError, UsageError
from spell_billing.core.month import Month
from spell_billing.usage.contract import (
    MANIFEST_FILE,
    NO_BAD_ROWS,
    BadRow,
    BadRows,
    ErasedUser,
    FrozenFile,
    LateMonth,
    LateUsage,
    Manifest,
    Outside,
    Totals,
    UncomparedMonth,
)

FORMAT_VERSION = 1


def write_manifest(manifest: Manifest, directory: Path) -> None:
    """Write `manifest.json`; amounts are decimal strings, so that no reader makes a float of them."""
    late = manifest.late
    document = {
        "format_version": manifest.format_version,
        "month": str(manifest.month),
        "frozen_at": manifest.frozen_at.isoformat(),
        "backend": manifest.backend,
        "cost_scale": manifest.cost_scale,
        "frozen": _totals(manifest.frozen),
        "control": _totals(manifest.control),
        "files": [_file(file) for file in manifest.files],
        "late": None
        if late is None
        else {
            "file": _file(late.file),
            "months": [
                {
                    "month": str(one.month),
                    "version": one.version,
                    "users": one.users,
                    "totals": _totals(one.totals),
                }
                for one in late.months
            ],
        },
        "late_checked": list(manifest.late_checked),
        "bad_rows": _bad_rows(manifest.bad_rows),
        "earlier_bad_rows": _bad_rows(manifest.earlier_bad_rows),
        "without_id": manifest.without_id,
        "outside": {
            "future": manifest.outside.future,
            "before_first": manifest.outside.before_first,
            "changed": [
                {"month": str(one.month), "billed": one.billed, "found": one.found}
                for one in manifest.outside.changed
            ],
        },
    }
    if manifest.erased:
        document["erased"] = [
            {"pseudonym": each.pseudonym, "at": each.at.isoformat()} for each in manifest.erased
        ]
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
        return _manifest(document)
    except FileNotFoundError as error:
        raise UsageError(f"{path} is missing.", remedy=remedy) from error
    except (ValueError, KeyError, TypeError, ArithmeticError, MonthError) as error:
        raise UsageError(f"{path} is damaged: {error}.", remedy=remedy) from error


def _manifest(document: Mapping[str, Any]) -> Manifest:
    late = document["late"]
    return Manifest(
        format_version=document["format_version"],
        month=Month.parse(document["month"]),
        frozen_at=datetime.fromisoformat(document["frozen_at"]),
        backend=document["backend"],
        cost_scale=document["cost_scale"],
        frozen=_read_totals(document["frozen"]),
        control=_read_totals(document["control"]),
        files=tuple(FrozenFile(**file) for file in document["files"]),
        late=None
        if late is None
        else LateUsage(
            FrozenFile(**late["file"]),
            tuple(
                LateMonth(
                    Month.parse(one["month"]), one["version"], one["users"], _read_totals(one["totals"])
                )
                for one in late["months"]
            ),
        ),
        late_checked=tuple(document["late_checked"]),
        bad_rows=_read_bad_rows(document["bad_rows"]),
        # Manifests of earlier versions of this program do not have these.
        earlier_bad_rows=_read_bad_rows(document.get("earlier_bad_rows", _bad_rows(NO_BAD_ROWS))),
        without_id=document.get("without_id", 0),
        outside=_read_outside(document.get("outside", {})),
        erased=tuple(
            ErasedUser(each["pseudonym"], datetime.fromisoformat(each["at"]))
            for each in document.get("erased", ())
        ),
    )


def _bad_rows(bad: BadRows) -> dict[str, Any]:
    examples = [{"id": row.id, "problem": row.problem} for row in bad.examples]
    return {"count": bad.count, "examples": examples}


def _read_bad_rows(document: Mapping[str, Any]) -> BadRows:
    return BadRows(document["count"], tuple(BadRow(**row) for row in document["examples"]))


def _read_outside(document: Mapping[str, Any]) -> Outside:
    changed = tuple(
        UncomparedMonth(Month.parse(one["month"]), one["billed"], one["found"])
        for one in document.get("changed", ())
    )
    return Outside(document.get("future", 0), document.get("before_first", 0), changed)


def _totals(totals: Totals) -> dict[str, Any]:
    return {"calls": totals.calls, "cost_cents": f"{totals.cost_cents:f}"}


def _read_totals(document: Mapping[str, Any]) -> Totals:
    return Totals(document["calls"], Decimal(document["cost_cents"]))


def _file(file: FrozenFile) -> dict[str, Any]:
    return {"name": file.name, "sha256": file.sha256, "rows": file.rows}
