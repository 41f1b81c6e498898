"""Add the terms of a bill: how it is collected, and what its invoice says beside the lines."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the column; null stands for the terms that every bill had so far."""
    op.add_column("ledger_invoices", sa.Column("terms", sa.Text))
