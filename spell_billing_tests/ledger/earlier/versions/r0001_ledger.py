"""Create the ledger: invoices, months, and the audit trail that can only grow."""

import sqlalchemy as sa
from alembic import op

from spell_billing.ledger.column_types import BigId, ExactDecimal, UtcDateTime
from spell_billing_tests.ledger.earlier.append_only import make_append_only

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables, their indexes and the audit trail's guard."""
    op.create_table(
        "ledger_invoices",
        sa.Column("id", BigId, primary_key=True, autoincrement=True),
        sa.Column("month", sa.String(7), nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("reason", sa.String(40)),
        sa.Column("message", sa.Text),
        sa.Column("stripe_customer_id", sa.Text),
        sa.Column("currency", sa.String(10), nullable=False),
        sa.Column("plan_id", sa.Text),
        sa.Column("calls", sa.BigInteger, nullable=False),
        sa.Column("usage_cents", ExactDecimal, nullable=False),
        sa.Column("total_cents", sa.BigInteger, nullable=False),
        sa.Column("included_cents", sa.BigInteger, nullable=False),
        sa.Column("covered_cents", sa.BigInteger, nullable=False),
        sa.Column("late_cents", sa.BigInteger, nullable=False),
        sa.Column("credit_applied_cents", sa.BigInteger, nullable=False),
        sa.Column("carried_cents", sa.BigInteger, nullable=False),
        sa.Column("late_lines", sa.Integer, nullable=False),
        sa.Column("unbilled_calls", sa.BigInteger, nullable=False),
        sa.Column("unbilled_usage_cents", ExactDecimal, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("lines", sa.Text, nullable=False),
        sa.Column("lines_hash", sa.String(64), nullable=False),
        sa.Column("stripe_invoice_id", sa.Text),
        sa.Column("stripe_request_id", sa.Text),
        sa.Column("request_attempt", sa.Integer, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("updated_at", UtcDateTime, nullable=False),
        sa.Column("finalized_at", UtcDateTime),
        sa.UniqueConstraint("month", "user_id", "generation", name="ledger_invoices_one_per_bill"),
    )
    op.create_index("ledger_invoices_by_state", "ledger_invoices", ["month", "state", "id"])
    op.create_index("ledger_invoices_by_user", "ledger_invoices", ["user_id", "month"])
    op.create_index("ledger_invoices_by_stripe_id", "ledger_invoices", ["stripe_invoice_id"])
    op.create_table(
        "ledger_months",
        sa.Column("month", sa.String(7), primary_key=True),
        sa.Column("usage_version", sa.Text, nullable=False),
        sa.Column("users", sa.BigInteger, nullable=False),
        sa.Column("calls", sa.BigInteger, nullable=False),
        sa.Column("usage_cents", ExactDecimal, nullable=False),
        sa.Column("drafted_at", UtcDateTime, nullable=False),
        sa.Column("billing_started_at", UtcDateTime),
        sa.Column("billed_at", UtcDateTime),
    )
    op.create_table(
        "ledger_audit",
        sa.Column("id", BigId, primary_key=True, autoincrement=True),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("month", sa.String(7), nullable=False),
        sa.Column("user_id", sa.Text),
        sa.Column("generation", sa.Integer),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("from_state", sa.String(20)),
        sa.Column("to_state", sa.String(20)),
        sa.Column("stripe_invoice_id", sa.Text),
        sa.Column("stripe_request_id", sa.Text),
        sa.Column("detail", sa.Text),
    )
    op.create_index("ledger_audit_by_user", "ledger_audit", ["month", "user_id"])
    make_append_only("ledger_audit", "id = NEW.id", "the audit trail is append-only")
