"""The names of months, versions and supplements in a store: `2026-10`, `v0001`, `since_0001`."""

import re
from collections.abc import Iterable

from spell_billing.core.month import Month

SUPPLEMENT_PREFIX = "since_"
_VERSION = re.compile(r"v(\d{4,})")
_MONTH = re.compile(r"\d{4}-\d\d")


def is_version(name: str) -> bool:
    """Return whether a name is one of a version."""
    return _VERSION.fullmatch(name) is not None


def sorted_months(names: Iterable[str]) -> list[Month]:
    """Return the months among names, oldest first."""
    return sorted(Month.parse(name) for name in names if _MONTH.fullmatch(name))


def sorted_versions(names: Iterable[str]) -> list[str]:
    """Return the versions among names, oldest first."""
    return sorted(filter(is_version, names), key=_number)


def next_version(versions: Iterable[str]) -> str:
    """Return the name of the version after these."""
    return f"v{max([0, *map(_number, versions)]) + 1:04d}"


def supplement_name(number: int) -> str:
    """Return the name of a version's supplement; the first has number 1."""
    return f"{SUPPLEMENT_PREFIX}{number:04d}"


def _number(version: str) -> int:
    return int(version.removeprefix("v"))
