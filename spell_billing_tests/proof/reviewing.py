"""Reviews a month of the small platform as the job does."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from spell_billing.core.month import Month
from spell_billing.core.review import ReviewRules
from spell_billing.invoicing.review_month import review_month
from spell_billing.ledger.rows import Actor
from spell_billing.settings.databases import parse_database_url
from spell_billing.usage.source import open_usage_source
from spell_billing_tests.proof.small_platform import SmallPlatform

FEBRUARY, MARCH = Month(2025, 2), Month(2025, 3)
USERS = ("anna", "bert")
CALL = 1_000
"""Cents of each user's one call a month."""


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


def findings(platform: SmallPlatform) -> list[tuple[str, str]]:
    """Draft and review March, and return the code and the text of what was found."""
    return [(each["code"], each["text"]) for each in findings_of(platform, MARCH)]


def live_through(
    platform: SmallPlatform, before: tuple[str, ...], meanwhile: Callable[[], Any]
) -> list[tuple[str, str]]:
    """Bill February, let something happen, and return what the review of March finds."""
    platform.accounts(*USERS)
    platform.sql(*before)
    for month in (FEBRUARY, MARCH):
        platform.calls(month, *((user, CALL) for user in USERS))
    platform.bill(FEBRUARY)
    meanwhile()
    return findings(platform)
