"""Add grants, which pay for later bills: append-only, as the audit trail is."""

import sqlalchemy as sa
from alembic import op

from spell_billing.ledger.column_types import UtcDateTime
from spell_billing_tests.ledger.earlier.append_only import make_append_only

revision = "0014"
down_revision = "0013"


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
    same_row = "grant_id = NEW.grant_id AND number = NEW.number"
    make_append_only("ledger_credits", same_row, "grants are append-only")
