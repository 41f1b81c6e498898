"""Add the index of bills that later drafts must know of: credits, late usage, adopted invoices."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_LEFT = (
    "(unbilled_calls <> 0 OR unbilled_usage_cents <> {nothing} OR late_lines > 0 "
    "OR carried_cents > 0 OR credit_applied_cents > 0)"
)


def upgrade() -> None:
    """Create the index."""
    op.create_index(
        "ledger_invoices_left_something",
        "ledger_invoices",
        ["month"],
        postgresql_where=sa.text(_LEFT.format(nothing="0")),
        sqlite_where=sa.text(_LEFT.format(nothing="'0'")),
    )
