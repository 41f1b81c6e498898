"""Reviews a month of the small platform as the job does."""

from collections.abc import Mapping, Sequence
from typing import Any

from spell_billing.core.month import Month
from spell_billing.core.review import ReviewRules
from spell_billing.invoicing.review_month import review_month
from spell_billing.ledger.rows import Actor
from spell_billing.settings.databases import parse_database_url
from spell_billing.usage.source import open_usage_source
from spell_billing_tests.proof.small_platform import SmallPlatform


def findings_of(platform: SmallPlatform, month: Month) -> Sequence[Mapping[str, Any]]:
    """Draft and review the month, and return what was found."""
    platform.draft(month)
    with platform.ledger() as ledger, ledger.session(month, Actor("tester"), drafting=True) as session:
        record = ledger.month(month)
        assert record is not None
        frozen = platform.store.version(month, record.usage_version)
        accounts = open_usage_source(parse_database_url(platform.url, setting="DATABASE_URL")).accounts
        groups = ledger.group_totals(month)
        review = review_month(
            ledger, session, platform.store, frozen, accounts, groups=groups, rules=ReviewRules()
        )
    assert review is not None
    return review.findings
