"""The readiness report's way to a source's usage of a month so far."""

from spell_billing.core.month import Month
from spell_billing.settings.databases import DatabaseUrl
from spell_billing.usage.contract import Totals
from spell_billing.usage.source import open_usage_source


def usage_so_far(url: DatabaseUrl, month: Month) -> dict[str, Totals]:
    """Return what each user has used in a month so far; see `UsageSource.so_far`."""
    return open_usage_source(url).so_far(month)
