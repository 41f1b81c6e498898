"""Add to the audit trail what was given back at Stripe without a command of ours."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Add the column; null for every entry that gives nothing back."""
    op.add_column("ledger_audit", sa.Column("amount_cents", sa.BigInteger))
