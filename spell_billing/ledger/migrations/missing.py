"""What the schema has and a ledger lacks: a revision that only adds something need do no more."""

from collections.abc import Collection

import sqlalchemy as sa
from alembic import op
from sqlalchemy.schema import CreateIndex, CreateTable

from spell_billing.ledger.column_types import metadata

_APPEND_ONLY = {"ledger_audit": "the audit trail is append-only", "ledger_credits": "grants are append-only"}
"""Tables whose rows are never changed, and what the triggers say that refuse it."""


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
            if table.name in _APPEND_ONLY:
                _make_append_only(table, _APPEND_ONLY[table.name])
        for index in sorted(table.indexes, key=lambda each: str(each.name)):
            connection.execute(CreateIndex(index, if_not_exists=True))


def _make_append_only(table: sa.Table, says: str) -> None:
    name = table.name
    if op.get_bind().dialect.name == "sqlite":
        refuse = f"BEGIN SELECT RAISE(ABORT, '{says}'); END"
        for verb in ("UPDATE", "DELETE"):
            op.execute(f"CREATE TRIGGER {name}_no_{verb.lower()} BEFORE {verb} ON {name} {refuse}")
        # INSERT OR REPLACE deletes the row it replaces without asking the trigger above.
        same_row = " AND ".join(f"{key.name} = NEW.{key.name}" for key in table.primary_key)
        op.execute(
            f"CREATE TRIGGER {name}_no_replace BEFORE INSERT ON {name} "
            f"WHEN EXISTS (SELECT 1 FROM {name} WHERE {same_row}) {refuse}"
        )
        return
    op.execute(
        f"CREATE FUNCTION {name}_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{says}'; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {name}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {name} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {name}_append_only()"
    )
