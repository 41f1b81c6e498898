"""Runs the revisions that ledgers in the field have run, as they were."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table="ledger_version",
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
