"""What PostgreSQL's catalog is asked about a table: its columns, and which of them are proven unique."""

from spell_billing.usage.privileges import READ

# NOT NULL proves something for the rows of a plain table, or of partitions that are plain tables. Not for a
# domain's, which views and subqueries evade, nor a foreign table's, nor that of a parent with heirs.
COLUMNS_QUERY = """
SELECT attribute.attname::text AS name, coalesce(base.typname, type.typname)::text AS type,
       NOT attribute.attnotnull OR relation.relkind NOT IN ('r', 'p') OR EXISTS (
           SELECT FROM pg_constraint AS unproven
           WHERE unproven.conrelid = relation.oid AND unproven.contype = 'n'
               AND NOT unproven.convalidated AND attribute.attnum = ANY (unproven.conkey)
       ) OR EXISTS (
           SELECT FROM pg_inherits AS child JOIN pg_class AS heir ON heir.oid = child.inhrelid
           WHERE child.inhparent = relation.oid AND (relation.relkind = 'r' OR heir.relkind <> 'r')
       ) AS nullable
FROM pg_attribute AS attribute
JOIN pg_class AS relation ON relation.oid = attribute.attrelid
JOIN pg_type AS type ON type.oid = attribute.atttypid
LEFT JOIN pg_type AS base ON type.typtype = 'd' AND base.oid = type.typbasetype
WHERE attribute.attrelid = to_regclass('{table}') AND attribute.attnum > 0 AND NOT attribute.attisdropped
"""

# A unique index proves something for the rows of a plain table; one of a partitioned table does so across the
# partitions, because PostgreSQL takes none there that lacks the partition key. Not one of several columns, of
# some rows, of an expression, or one that was never finished; and not for the heirs of a table.
UNIQUE_QUERY = """
SELECT attribute.attname::text AS name
FROM pg_attribute AS attribute
JOIN pg_class AS relation ON relation.oid = attribute.attrelid
JOIN pg_index AS index ON index.indrelid = relation.oid AND index.indkey[0] = attribute.attnum
WHERE attribute.attrelid = to_regclass('{table}') AND attribute.attnum > 0
    AND index.indisunique AND index.indisvalid AND index.indnkeyatts = 1
    AND index.indpred IS NULL AND index.indexprs IS NULL
    AND (relation.relkind = 'p' OR relation.relkind = 'r' AND NOT EXISTS (
        SELECT FROM pg_inherits AS child WHERE child.inhparent = relation.oid
    ))
"""

# ALTER TABLE and TRUNCATE write a table anew, and it appears empty to a snapshot that is older (PostgreSQL's
# manual on MVCC, "Caveats"). So does a table that takes the place of another. What was read is locked until
# the transaction ends, so that what became of it before can be seen: the catalog's rows are those of the
# snapshot, `pg_relation_filenode` and `regclass` tell what is there now.
REWRITTEN_QUERY = """
SELECT held.relation::regclass::text AS name
FROM pg_locks AS held
LEFT JOIN pg_class AS seen ON seen.oid = held.relation
WHERE held.locktype = 'relation' AND held.pid = pg_backend_pid() AND held.relation >= 16384
    AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND (seen.oid IS NULL AND pg_get_indexdef(held.relation) IS NULL
        OR seen.relkind IN ('r', 'm') AND seen.relfilenode <> pg_relation_filenode(held.relation))
ORDER BY name
"""

_TABLES = ", ".join(f"('{table}')" for table in READ)

# A schema of the search path that the role may not use is passed over in silence, as if it had no such table:
# another table of that name, later in the path, would be taken for it.
HIDDEN_QUERY = f"""
SELECT first.name, first.schema, current_user::text AS role, taken.relnamespace::regnamespace::text AS instead
FROM (
    SELECT DISTINCT ON (wanted.name) wanted.name, space.oid, space.nspname::text AS schema
    FROM (VALUES {_TABLES}) AS wanted (name)
    JOIN pg_class AS relation ON relation.relname = wanted.name
        AND relation.relkind IN ('r', 'p', 'v', 'm', 'f')
    JOIN pg_namespace AS space ON space.oid = relation.relnamespace
    JOIN unnest(string_to_array(current_setting('search_path'), ',')) WITH ORDINALITY AS part (name, place)
        ON replace(btrim(part.name, ' "'), '$user', current_user) = space.nspname
    ORDER BY wanted.name, part.place
) AS first
LEFT JOIN pg_class AS taken ON taken.oid = to_regclass(first.name)
WHERE NOT has_schema_privilege(first.oid, 'USAGE')
"""

# `row_security` of a session holds in its own server. That of a foreign table hides rows in silence, unless
# the server's options set it for the sessions there. Looked for below views and partitions, too.
FOREIGN_QUERY = f"""
WITH RECURSIVE below (oid) AS (
    SELECT to_regclass(name)::oid FROM (VALUES {_TABLES}) AS wanted (name)
    UNION
    SELECT part.oid FROM below CROSS JOIN LATERAL (
        SELECT inhrelid FROM pg_inherits WHERE inhparent = below.oid
        UNION ALL
        SELECT source.refobjid FROM pg_rewrite AS rule
        JOIN pg_depend AS source ON source.classid = 'pg_rewrite'::regclass AND source.objid = rule.oid
        WHERE rule.ev_class = below.oid AND source.refclassid = 'pg_class'::regclass
    ) AS part (oid)
)
SELECT below.oid::regclass::text AS name
FROM below
JOIN pg_foreign_table AS foreign_table ON foreign_table.ftrelid = below.oid
JOIN pg_foreign_server AS server ON server.oid = foreign_table.ftserver
JOIN pg_foreign_data_wrapper AS wrapper ON wrapper.oid = server.srvfdw
WHERE wrapper.fdwname = 'postgres_fdw'
    AND coalesce(array_to_string(server.srvoptions, ' '), '') !~ 'row_security=(off|false|no|0)'
ORDER BY 1
"""
