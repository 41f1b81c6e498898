"""Tables whose rows are never changed: triggers refuse it."""

import sqlalchemy as sa
from alembic import op

APPEND_ONLY = {
    "ledger_audit": "the audit trail is append-only",
    "ledger_credits": "grants are append-only",
}
"""What the triggers say, by table."""


def make_append_only(table: sa.Table, says: str) -> None:
    """Refuse to change or remove a table's rows."""
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
