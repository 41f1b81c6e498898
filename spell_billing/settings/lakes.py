"""URLs of usage that lives in a lake or a distributed engine, which Ibis reads."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from spell_billing.core.errors import SettingsError
from spell_billing.settings.databases import DatabaseUrl, parse_database_url

ENGINES = ("duckdb", "spark", "clickhouse", "bigquery", "snowflake", "trino")
_EXAMPLES = (
    "Write duckdb:///absolute/folder/of/parquet, duckdb:///absolute/file.duckdb, spark://host:7077/database, "
    "clickhouse://, bigquery://, snowflake:// or trino:// as Ibis takes them."
)
_MASK = "***"


@dataclass(frozen=True)
class LakeUrl:
    """One engine that usage is read from. `str()` and `repr()` never show a password.

    Attributes:
        backend: One of `ENGINES`.
        setting: Where the URL came from, for messages.
        redacted: Without password and options, which may be secret.
        text: As it was given.
        path: For DuckDB: the folder or file.
        host: For Spark: where the master is; empty: as Spark's own configuration says.
        database: For Spark: the database of the tables, or empty.
        options: For Spark: `folder`, and settings of the session.
    """

    backend: str
    setting: str
    redacted: str
    text: str = field(repr=False)
    path: Path | None = None
    host: str = ""
    database: str = ""
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return self.redacted

    @property
    def secrets(self) -> list[str]:
        """What no message may show: the password, as written and as meant, and options of a warehouse."""
        if self.backend in {"duckdb", "spark"}:
            return []
        parts = urlsplit(self.text)
        password = parts.password or ""
        values = [value for _, value in parse_qsl(parts.query)]
        return [each for each in (password, unquote(password), *values) if each]


UsageUrl = DatabaseUrl | LakeUrl


def parse_usage_url(text: str, *, setting: str) -> UsageUrl:
    """Read the URL of a usage source: a database as `parse_database_url` reads it, or an engine.

    Raises:
        SettingsError: naming the setting, never echoing a password.
    """
    text = text.strip()
    scheme, separator, _ = text.partition("://")
    if not separator or scheme not in ENGINES:
        return parse_database_url(text, setting=setting)
    if scheme == "duckdb":
        return _duckdb(text, setting)
    try:
        parts = urlsplit(text)
        host = parts.netloc.rpartition("@")[2]
        secret = f":{_MASK}" if parts.password else ""
        user = quote(parts.username or "", safe="")
    except ValueError as error:
        raise SettingsError(f"{setting} is not a URL of {scheme}: {error}.", remedy=_EXAMPLES) from error
    login = f"{user}{secret}@" if user or secret else ""
    redacted = f"{scheme}://{login}{host}{parts.path}"
    if scheme != "spark":
        return LakeUrl(scheme, setting, redacted, text)
    options = tuple(parse_qsl(parts.query))
    unknown = [name for name, _ in options if name != "folder" and not name.startswith("spark.")]
    database = parts.path.strip("/")
    if unknown or login or not re.fullmatch(r"[\w.]*", database):
        wrong = f"the option {unknown[0]}" if unknown else "a user, or a database that is no name"
        raise SettingsError(
            f"{setting} has {wrong}, which a Spark URL does not take.",
            remedy="Write spark://host:7077/database, with ?folder=/folder/of/parquet where the tables are "
            "files, and settings of the session as spark.executor.memory=4g.",
        )
    return LakeUrl(scheme, setting, redacted, text, None, host, database, options)


def _duckdb(text: str, setting: str) -> LakeUrl:
    authority, slash, rest = text.removeprefix("duckdb://").partition("/")
    name = rest.lstrip("/")
    if authority or not slash or not name or "?" in name:
        raise SettingsError(
            f"{setting} names no folder of Parquet files, and no DuckDB file.",
            remedy="Write duckdb:///absolute/folder, or duckdb:///absolute/file.duckdb; it takes no options.",
        )
    path = Path("/", unquote(name))
    return LakeUrl("duckdb", setting, f"duckdb://{path}", text, path)
