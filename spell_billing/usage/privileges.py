"""What the user who reads the platform's tables must be allowed in PostgreSQL, and what it may not read."""

from collections.abc import Iterator

from spell_billing.settings.databases import DatabaseUrl
from spell_billing.usage.accounts import LIMIT_COLUMN
from spell_billing.usage.tables import ACCOUNTS_TABLE, COLUMNS, USAGE_TABLE

ROLE = "billing_reader"
_FURTHER = {USAGE_TABLE: ("quantity",), ACCOUNTS_TABLE: (LIMIT_COLUMN,)}
READ = {table: (*columns, *_FURTHER.get(table, ())) for table, columns in COLUMNS.items()}
"""The columns that are read where the table has them, beside those that LINE_ITEMS_BY and USAGE_DEDUPE_COLUMN
name."""

_UNREADABLE = """
SELECT current_user::text, attribute.attrelid::regclass::text, attribute.attname::text
FROM pg_attribute AS attribute
WHERE attribute.attrelid = ANY (SELECT to_regclass(name) FROM unnest(%s::text[]) AS name)
    AND attribute.attnum > 0 AND NOT attribute.attisdropped
    AND NOT has_column_privilege(attribute.attrelid, attribute.attnum, 'SELECT')
ORDER BY attribute.attrelid, attribute.attnum
"""


def grants(role: str = ROLE) -> Iterator[str]:
    """Give the statements that let a role read what is there of the tables; repeat them after a change."""
    yield f"GRANT USAGE ON SCHEMA public TO {role}"
    tables = ",\n        ".join(f"('{table}', '{{{', '.join(names)}}}')" for table, names in READ.items())
    yield f"""DO $$
DECLARE
    found record;
BEGIN
    FOR found IN
        SELECT wanted.name, string_agg(quote_ident(attribute.attname), ', ' ORDER BY attnum) AS columns
        FROM (VALUES
        {tables}
        ) AS wanted (name, columns)
        JOIN pg_attribute AS attribute ON attribute.attrelid = to_regclass(wanted.name)
            AND attribute.attname = ANY (wanted.columns::text[])
            AND attribute.attnum > 0 AND NOT attribute.attisdropped
        GROUP BY wanted.name
    LOOP
        EXECUTE format('GRANT SELECT (%s) ON %I TO {role}', found.columns, found.name);
    END LOOP;
END $$"""


def unreadable(url: DatabaseUrl) -> list[tuple[str, str, str]]:
    """Return user, table and column of what the user of a URL may not read, and would be read.

    A column that a setting names is among what is left when all others may be read.
    """
    import psycopg  # noqa: PLC0415 - only where PostgreSQL refuses

    with psycopg.connect(url.libpq_dsn) as connection:
        rows = connection.execute(_UNREADABLE, [list(READ)]).fetchall()
    ours = [row for row in rows if row[2] in READ.get(row[1], ())]
    return ours or rows
