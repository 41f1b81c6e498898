"""The platform's tables of the demo, as docs/data.md and docs/pricing.md describe them."""

import sqlalchemy as sa

metadata = sa.MetaData()
billing_plans = sa.Table(
    "billing_plans",
    metadata,
    sa.Column("plan_id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("included_cents", sa.Integer, nullable=False),
    sa.Column("monthly_fee_cents", sa.Integer, nullable=False),
)
plan_subscriptions = sa.Table(
    "plan_subscriptions",
    metadata,
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("plan_id", sa.Text, nullable=False),
    sa.Column("starts_at", sa.Text),
    sa.Column("ends_at", sa.Text),
)
rate_cards = sa.Table(
    "rate_cards",
    metadata,
    sa.Column("plan_id", sa.Text),
    sa.Column("item", sa.Text),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("unit", sa.Text, nullable=False),
    sa.Column("up_to", sa.Integer),
    # Text: a numeric column of SQLite holds a float.
    sa.Column("unit_price_cents", sa.Text, nullable=False),
    sa.Column("package_size", sa.Integer),
    sa.Column("valid_from", sa.Text),
)
billing_accounts = sa.Table(
    "billing_accounts",
    metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("stripe_customer_id", sa.Text),
    sa.Column("currency", sa.Text, nullable=False, server_default="usd"),
    sa.Column("email", sa.Text),
    sa.Column("plan_id", sa.Text),
    sa.Column("spend_limit_cents", sa.Integer),
)
usage_counters = sa.Table(
    "usage_counters",
    metadata,
    # SQLite numbers rows by itself only in a column of the type INTEGER.
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("cost_cents", sa.Integer, nullable=False),
    # PostgreSQL: timestamptz. SQLite: text without a zone, which means UTC.
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("endpoint", sa.Text),
    sa.Index("ix_usage_counters_created_at", "created_at"),
    sa.Index("ix_usage_counters_user_id_created_at", "user_id", "created_at"),
)
