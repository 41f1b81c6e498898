"""Insert rows that may be there already, on both databases."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection


def insert_new(connection: Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> int:
    """Insert the rows whose key is not there yet, and return how many; the others stay as they are."""
    if not rows:
        return 0
    statement = _insert(connection, table).on_conflict_do_nothing().returning(*table.primary_key.columns)
    return len(connection.execute(statement, list(rows)).all())


def put_row(connection: Connection, table: sa.Table, row: Mapping[str, Any]) -> None:
    """Insert a row, in place of the one with its key if there is one."""
    insert = _insert(connection, table)
    new = {column.name: insert.excluded[column.name] for column in table.columns if not column.primary_key}
    keys = table.primary_key.columns
    connection.execute(insert.on_conflict_do_update(index_elements=keys, set_=new), [row])


def _insert(connection: Connection, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    return (sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert)(table)
