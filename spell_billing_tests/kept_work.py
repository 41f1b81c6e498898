"""What a library works out anew for every database, kept from one test to the next.

SQLAlchemy compiles a statement once per engine, and Alembic runs all migration files to learn which is the
latest. Each test has databases of its own, and Dagster's SQLite storage makes an engine for every connection:
the same few hundred statements and files, again and again.
"""

from collections.abc import Iterator, MutableMapping
from types import FunctionType
from typing import Any

import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.util import LRUCache

_PLAIN = (str, int, float, bool, tuple, frozenset, FunctionType, type, type(None))
_STATEMENTS = 5_000


class _Compiled(MutableMapping[Any, Any]):
    """What is compiled for one kind of dialect, by all of a statement's key but the dialect itself."""

    def __init__(self) -> None:
        self._kept: LRUCache[Any, Any] = LRUCache(_STATEMENTS)

    def get(self, key: Any, default: Any = None) -> Any:
        return self._kept.get(key[1:], default)

    def __getitem__(self, key: Any) -> Any:
        return self._kept[key[1:]]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._kept[key[1:]] = value

    def __delitem__(self, key: Any) -> None:
        del self._kept[key[1:]]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)


_by_kind: dict[object, _Compiled] = {}


def _kind(dialect: sa.Dialect) -> object:
    """Return all that decides on compiled SQL: the dialect's class and settings, as it found its server."""
    settings = {
        name: value if isinstance(value, _PLAIN) else type(value) for name, value in vars(dialect).items()
    }
    return type(dialect), frozenset(settings.items())


def _share_statements(connection: sa.Connection) -> None:
    compiled = _by_kind.setdefault(_kind(connection.dialect), _Compiled())
    connection.execution_options(compiled_cache=compiled)


def keep_work() -> None:
    """Keep compiled statements and migration files from here on, in this process and those forked from it."""
    sa.event.listen(sa.Engine, "engine_connect", _share_statements)
    read = ScriptDirectory.from_config
    known: dict[str | None, ScriptDirectory] = {}

    def from_config(config: Config) -> ScriptDirectory:
        folder = config.get_main_option("script_location")
        if folder not in known:
            known[folder] = read(config)
        return known[folder]

    ScriptDirectory.from_config = from_config  # type: ignore[method-assign] # Dagster and our migrations read by it
