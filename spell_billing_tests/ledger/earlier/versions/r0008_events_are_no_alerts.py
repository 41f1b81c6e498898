"""Keep events for the platform out of the index that counts alerts."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_SENT_ALERTS = sa.text(
    "sent_at IS NOT NULL AND channel NOT IN ('alerts', 'mail') AND substr(channel, 1, 6) <> 'event:'"
)


def upgrade() -> None:
    """Make the index anew."""
    op.drop_index("ledger_outbox_alerts", "ledger_outbox")
    op.create_index(
        "ledger_outbox_alerts",
        "ledger_outbox",
        ["kind"],
        postgresql_where=_SENT_ALERTS,
        sqlite_where=_SENT_ALERTS,
    )
