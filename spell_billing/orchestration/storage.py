"""Dagster's own storage in PostgreSQL, under a URL as providers hand it out.

dagster-postgres hands the URL to SQLAlchemy as it is, and speaks psycopg2's dialect: SQLAlchemy 2.1 takes
`postgresql://` for psycopg 3, where Dagster's NOTIFY is a syntax error, and does not know `postgres://`.
"""

from typing import Any, Self

from dagster_postgres import DagsterPostgresStorage

from spell_billing.orchestration.unstable import ConfigurableClassData
from spell_billing.settings.databases import parse_database_url


class PostgresStorage(DagsterPostgresStorage):
    """Takes the same configuration as dagster-postgres: `postgres_url`, from DAGSTER_POSTGRES_URL."""

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> Self:
        """Open the storage.

        Raises:
            SettingsError: naming DAGSTER_POSTGRES_URL, never its password.
        """
        url = parse_database_url(config_value["postgres_url"], setting="DAGSTER_POSTGRES_URL").sqlalchemy_url
        text = url.set(drivername="postgresql+psycopg2").render_as_string(hide_password=False)
        return cls(text, inst_data=inst_data)
