"""Opens the usage source that a database URL names; the one place that knows which adapters exist."""

from datetime import datetime

from spell_billing.core.month import Month
from spell_billing.settings.databases import DatabaseUrl
from spell_billing.usage.contract import SourceRules, UsageSource
from spell_billing.usage.postgres import PostgresUsage
from spell_billing.usage.sqlite import SqliteUsage


def open_usage_source(url: DatabaseUrl, rules: SourceRules = SourceRules()) -> UsageSource:  # noqa: B008
    """Return the source; nothing is connected before the first call."""
    return PostgresUsage(url, rules) if url.backend == "postgresql" else SqliteUsage(url, rules)


def is_at_platform(source: UsageSource, user_id: str, *, since: Month, now: datetime) -> bool:
    """Return whether a user has an account, or calls in a month from `since` on."""
    if source.account(user_id) is not None:
        return True
    return any(source.user_month(user_id, month).calls for month in since.through(Month.containing(now)))
