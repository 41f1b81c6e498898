"""Alembic's entry point: runs the revisions on the connection that `migrate` hands over."""

from alembic import context
from sqlalchemy.engine import Connection
from sqlalchemy.schema import DDLElement, SetColumnComment, SetTableComment

from spell_billing.ledger import schema  # noqa: F401 - it enters the tables
from spell_billing.ledger.column_types import metadata

VERSION_TABLE = "ledger_version"
"""A name of our own: the platform may keep its `alembic_version` in the same database."""


def _comment(connection: Connection) -> None:
    """Write the comments of all tables and columns, as the schema has them now, into PostgreSQL at once."""
    comments: list[DDLElement] = []
    for table in metadata.sorted_tables:
        comments += [SetTableComment(table), *map(SetColumnComment, table.columns)]
    connection.exec_driver_sql(";".join(str(each.compile(connection)) for each in comments))


connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
    # Where they stop at an earlier revision, tables of the schema are missing.
    newest = context.get_context().get_current_heads() == (context.script.get_current_head(),)
    if newest and connection.dialect.name == "postgresql":
        _comment(connection)
