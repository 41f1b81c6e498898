"""Index the few bills that replace a voided one: to list them, no other bill's entry is read."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the index."""
    few = sa.text("generation > 1")
    op.create_index(
        "ledger_invoices_replacing",
        "ledger_invoices",
        ["month", "user_id", "generation"],
        postgresql_where=few,
        sqlite_where=few,
    )
