"""Months that were frozen before, for tests in which a freeze is only the way to somewhere else."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from spell_billing.core.month import Month
from spell_billing.usage.aggregate import aggregate
from spell_billing.usage.contract import SourceRules, UsageSource
from spell_billing.usage.frozen import FrozenUsage
from spell_billing.usage.store import UsageStore

_before: dict[str, dict[Path, bytes]] = {}
"""The files of a month's first version, by all that they come from."""


def freeze_once(
    source: UsageSource, store_path: Path, month: Month, database: Path, rules: SourceRules
) -> FrozenUsage:
    """Freeze and add up a month, or copy what the very same tables became for another test of that day."""
    today = datetime.now(UTC).date()
    key = repr((today, month, rules, _tables(database)))
    store, folder = UsageStore(store_path), store_path / str(month)
    if key not in _before:
        aggregate(store.freeze(source, month))
        files = [path for path in folder.rglob("*") if path.is_file()]
        _before[key] = {path.relative_to(folder): path.read_bytes() for path in files}
    for name, content in _before[key].items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    frozen = store.latest(month)
    assert frozen is not None
    return frozen


def _tables(database: Path) -> list[object]:
    """Read all tables of the platform with their rows."""
    with closing(sqlite3.connect(database)) as connection:
        found = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'ledger_%' ORDER BY 1"
        ).fetchall()
        return [(name, sql, connection.execute(f"SELECT * FROM {name}").fetchall()) for name, sql in found]
