"""Add the review of months, people's decisions, moved usage, and the Stripe account that is billed."""

import sqlalchemy as sa
from alembic import op

from spell_billing.ledger.column_types import BigId, UtcDateTime

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "ledger_reviews",
        sa.Column("month", sa.String(7), primary_key=True),
        sa.Column("drafts_hash", sa.String(64), nullable=False),
        sa.Column("findings", sa.Text, nullable=False),
        sa.Column("reviewed_at", UtcDateTime, nullable=False),
    )
    op.create_table(
        "ledger_decisions",
        sa.Column("id", BigId, primary_key=True, autoincrement=True),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("month", sa.String(7), nullable=False),
        sa.Column("user_id", sa.Text),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("content_hash", sa.String(64)),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_index("ledger_decisions_by_month", "ledger_decisions", ["month", "user_id"])
    op.create_table(
        "ledger_moves",
        sa.Column("id", BigId, primary_key=True, autoincrement=True),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("from_user", sa.Text, nullable=False),
        sa.Column("to_user", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_table(
        "ledger_stripe_account",
        sa.Column("mode", sa.String(4), primary_key=True),
        sa.Column("account_id", sa.Text),
        sa.Column("recorded_at", UtcDateTime, nullable=False),
    )
