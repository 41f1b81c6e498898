"""Alembic's entry point: runs the revisions on the connection that `migrate` hands over."""

from alembic import context

from spell_billing.ledger import schema  # noqa: F401 - it enters the tables
from spell_billing.ledger.column_types import metadata

VERSION_TABLE = "ledger_version"
"""A name of our own: the platform may keep its `alembic_version` in the same database."""

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
