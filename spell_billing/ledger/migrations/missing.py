"""What the schema has and a ledger lacks: a revision that only adds something need do no more."""

from collections.abc import Collection

import sqlalchemy as sa
from alembic import op
from sqlalchemy.schema import CreateIndex, CreateTable

from spell_billing.ledger.column_types import metadata
from spell_billing.ledger.migrations.append_only import APPEND_ONLY, make_append_only


def add_missing(there: Collection[str]) -> None:
    """Add the tables, columns and indexes that the schema has beyond the tables that are `there`.

    Comments are left to `env.py`.
    """
    connection = op.get_bind()
    for table in metadata.sorted_tables:
        if table.name in there:
            known = {each["name"] for each in sa.inspect(connection).get_columns(table.name)}
            for column in table.columns:
                if column.name not in known:
                    op.add_column(table.name, column)
        else:
            connection.execute(CreateTable(table))
            if table.name in APPEND_ONLY:
                make_append_only(table, APPEND_ONLY[table.name])
        for index in sorted(table.indexes, key=lambda each: str(each.name)):
            connection.execute(CreateIndex(index, if_not_exists=True))
