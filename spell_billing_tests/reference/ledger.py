"""docs/ledger.md from the ledger's schema."""

from itertools import chain

import sqlalchemy as sa

from spell_billing.ledger import money_tables, schema
from spell_billing_tests.reference.pages import table

_POSTGRESQL = sa.create_engine("postgresql+psycopg://").dialect
_SHORT = {"timestamp with time zone": "timestamptz"}


def ledger_tables() -> str:
    """Describe all tables: what a row is, the columns with type and meaning, and what identifies a row."""
    modules = chain(vars(schema).values(), vars(money_tables).values())
    return "\n".join(_section(each) for each in modules if isinstance(each, sa.Table))


def _section(described: sa.Table) -> str:
    assert described.comment
    rows = []
    for column in described.columns:
        assert column.comment
        kind = column.type.compile(_POSTGRESQL).lower()
        null = "yes" if column.nullable else "no"
        rows.append((f"`{column.name}`", _SHORT.get(kind, kind), null, column.comment))
    unique = [each for each in described.constraints if isinstance(each, sa.UniqueConstraint)]
    keys = [
        ", ".join(f"`{column.name}`" for column in each.columns) for each in [described.primary_key, *unique]
    ]
    also = f"; unique as well: {', '.join(keys[1:])}" if unique else ""
    head = ("column", "type", "null", "what it is")
    return f"## {described.name}\n\n{described.comment}\n\n{table(head, rows)}\nKey: {keys[0]}{also}.\n"
