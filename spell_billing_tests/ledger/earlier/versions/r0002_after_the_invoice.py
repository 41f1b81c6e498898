"""Add what follows an invoice: payments, events, alerts, mail to users, and the runs themselves."""

import sqlalchemy as sa
from alembic import op

from spell_billing.ledger.column_types import BigId, UtcDateTime

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the tables."""
    _payments()
    _alerts()
    _runs()
    _invoice_indexes()


def _payments() -> None:
    op.create_table(
        "ledger_payments",
        sa.Column("stripe_invoice_id", sa.Text, primary_key=True),
        sa.Column("month", sa.String(7), nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("failed_attempts", sa.Integer, nullable=False),
        sa.Column("next_attempt_at", UtcDateTime),
        sa.Column("amount_due_cents", sa.BigInteger, nullable=False),
        sa.Column("amount_paid_cents", sa.BigInteger, nullable=False),
        sa.Column("decline_code", sa.String(80)),
        sa.Column("message", sa.Text),
        sa.Column("hosted_invoice_url", sa.Text),
        sa.Column("invoice_pdf", sa.Text),
        sa.Column("as_of", UtcDateTime, nullable=False),
        sa.Column("way", sa.String(20), nullable=False),
        sa.Column("alerted_attempts", sa.Integer, nullable=False, server_default="0"),
    )
    op.create_index("ledger_payments_by_month", "ledger_payments", ["month", "status"])
    op.create_index("ledger_payments_by_status", "ledger_payments", ["status", "month"])
    op.create_table(
        "ledger_events",
        sa.Column("event_id", sa.Text, primary_key=True),
        sa.Column("type", sa.String(80), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("received_at", UtcDateTime, nullable=False),
        sa.Column("way", sa.String(20), nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("handled_at", UtcDateTime),
        sa.Column("outcome", sa.String(40)),
    )
    op.create_index("ledger_events_waiting", "ledger_events", ["handled_at", "created_at"])
    op.create_table(
        "ledger_cursors",
        sa.Column("name", sa.String(40), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("moved_at", UtcDateTime, nullable=False),
    )
    op.create_table(
        "ledger_dunning",
        sa.Column("stripe_invoice_id", sa.Text, primary_key=True),
        sa.Column("step", sa.Integer, primary_key=True),
        sa.Column("asked_at", UtcDateTime, nullable=False),
        sa.Column("outcome", sa.String(80), nullable=False),
    )


def _alerts() -> None:
    op.create_table(
        "ledger_alerts",
        sa.Column("key", sa.String(200), primary_key=True),
        sa.Column("channel", sa.String(200), primary_key=True),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("month", sa.String(7)),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("sent_at", UtcDateTime, nullable=False),
    )
    op.create_index("ledger_alerts_by_kind", "ledger_alerts", ["kind", "month"])
    op.create_table(
        "ledger_reported_bills",
        sa.Column("bill_id", BigId, primary_key=True, autoincrement=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("reason", sa.String(40), nullable=False),
        sa.Column("reported_at", UtcDateTime, nullable=False),
    )
    op.create_table(
        "ledger_outbox",
        sa.Column("id", BigId, primary_key=True, autoincrement=True),
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("template", sa.String(40), nullable=False),
        sa.Column("month", sa.String(7), nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("next_try_at", UtcDateTime, nullable=False),
        sa.Column("sent_at", UtcDateTime),
        sa.Column("given_up_at", UtcDateTime),
        sa.Column("error", sa.Text),
        sa.UniqueConstraint("key", name="ledger_outbox_once"),
    )
    op.create_index("ledger_outbox_waiting", "ledger_outbox", ["sent_at", "given_up_at", "next_try_at"])


def _runs() -> None:
    op.create_table(
        "ledger_runs",
        sa.Column("id", BigId, primary_key=True, autoincrement=True),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("month", sa.String(7), nullable=False),
        sa.Column("started_at", UtcDateTime, nullable=False),
        sa.Column("ended_at", UtcDateTime, nullable=False),
        sa.Column("result", sa.String(20), nullable=False),
        sa.Column("invoiced", sa.BigInteger, nullable=False),
        sa.Column("unfinished", sa.BigInteger, nullable=False),
        sa.Column("limited", sa.BigInteger, nullable=False),
        sa.Column("requests", sa.Text, nullable=False),
    )
    op.create_index("ledger_runs_by_month", "ledger_runs", ["month", "id"])


def _invoice_indexes() -> None:
    op.drop_index("ledger_invoices_by_state", "ledger_invoices")
    op.create_index(
        "ledger_invoices_by_state", "ledger_invoices", ["month", "state", "id", "currency", "total_cents"]
    )
    op.drop_index("ledger_invoices_by_stripe_id", "ledger_invoices")
    _partial_index("ledger_invoices_by_stripe_id", "stripe_invoice_id")
    _partial_index("ledger_invoices_by_finalized", "finalized_at")


def _partial_index(name: str, column: str) -> None:
    filled = sa.text(f"{column} IS NOT NULL")
    op.create_index(name, "ledger_invoices", [column], postgresql_where=filled, sqlite_where=filled)
