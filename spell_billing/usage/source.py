"""Opens the usage source that a database URL names; the one place that knows which adapters exist."""

from spell_billing.settings.databases import DatabaseUrl
from spell_billing.usage.contract import SourceRules, UsageSource
from spell_billing.usage.postgres import PostgresUsage
from spell_billing.usage.sqlite import SqliteUsage


def open_usage_source(url: DatabaseUrl, rules: SourceRules = SourceRules()) -> UsageSource:  # noqa: B008
    """Give the source; nothing is connected before the first call."""
    return PostgresUsage(url, rules) if url.backend == "postgresql" else SqliteUsage(url, rules)
