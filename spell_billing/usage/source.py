"""Opens the usage source that a database URL names; the one place that knows which adapters exist."""

from datetime import datetime

from spell_billing.core.errors import SettingsError
from spell_billing.core.month import Month
from spell_billing.settings.lakes import LakeUrl, UsageUrl
from spell_billing.usage.contract import SourceRules, UsageSource
from spell_billing.usage.postgres import PostgresUsage
from spell_billing.usage.sqlite import SqliteUsage


def open_usage_source(url: UsageUrl, rules: SourceRules = SourceRules()) -> UsageSource:  # noqa: B008
    """Return the source; nothing is connected before the first call."""
    # Outside PostgreSQL the names of columns have no case.
    lowered = rules.in_lower_case()
    if isinstance(url, LakeUrl):
        # Ibis is no part of a usual installation, and takes a second to load.
        try:
            from spell_billing.usage.lake import LakeUsage  # noqa: PLC0415
        except ModuleNotFoundError as missing:
            if missing.name != "ibis":
                raise
            raise SettingsError(
                f"{url.setting} names {url.backend}, which is read through Ibis, and Ibis is not installed.",
                remedy="Install it: pip install 'spell-billing[lake]', or 'spell-billing[spark]' for Spark.",
            ) from missing
        return LakeUsage(url, lowered)
    return PostgresUsage(url, rules) if url.backend == "postgresql" else SqliteUsage(url, lowered)


def is_at_platform(source: UsageSource, user_id: str, *, since: Month, now: datetime) -> bool:
    """Return whether a user has an account, or calls in a month from `since` on."""
    if source.account(user_id) is not None:
        return True
    return any(source.user_month(user_id, month).calls for month in since.through(Month.containing(now)))
