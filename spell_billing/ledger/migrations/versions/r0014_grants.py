"""Add grants, which pay for later bills: append-only, as the audit trail is."""

import sqlalchemy as sa
from alembic import op

from spell_billing.ledger.column_types import UtcDateTime

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_SAYS = "'grants are append-only'"


def upgrade() -> None:
    """Add the table, and the triggers that refuse every change to its rows."""
    op.create_table(
        "ledger_credits",
        sa.Column("grant_id", sa.String(64), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("currency", sa.String(10), nullable=False),
        sa.Column("amount_cents", sa.BigInteger, nullable=False),
        sa.Column("expires_on", sa.Date, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER ledger_credits_no_{verb.lower()} BEFORE {verb} ON ledger_credits "
                f"BEGIN SELECT RAISE(ABORT, {_SAYS}); END"
            )
        # INSERT OR REPLACE deletes the row it replaces without asking the trigger above.
        op.execute(
            "CREATE TRIGGER ledger_credits_no_replace BEFORE INSERT ON ledger_credits WHEN EXISTS "
            "(SELECT 1 FROM ledger_credits WHERE grant_id = NEW.grant_id AND number = NEW.number) "
            f"BEGIN SELECT RAISE(ABORT, {_SAYS}); END"
        )
        return
    op.execute(
        "CREATE FUNCTION ledger_credits_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION {_SAYS}; END $$"
    )
    op.execute(
        "CREATE TRIGGER ledger_credits_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_credits "
        "FOR EACH STATEMENT EXECUTE FUNCTION ledger_credits_append_only()"
    )
