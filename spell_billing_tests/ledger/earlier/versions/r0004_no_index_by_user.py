"""Drop the index of bills by user: month by month, the unique one finds them as fast."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Drop the index."""
    op.drop_index("ledger_invoices_by_user", "ledger_invoices", if_exists=True)
