"""Terms of bills that a month has lost since the one before hold it until a person looks."""

import pytest

from spell_billing.core.terms import ENFORCED, ON, USUAL_POLICY, Policy
from spell_billing_tests.proof.reviewing import live_through
from spell_billing_tests.proof.small_platform import SmallPlatform


@pytest.mark.parametrize(
    ("policy", "setting", "said"),
    [
        (Policy(ON), "AUTOMATIC_TAX", "the 2 users who were billed with tax would be billed without"),
        (Policy(ENFORCED), "AUTOMATIC_TAX", "the 2 users who were billed with tax would be billed without"),
        (
            Policy(discounts=True),
            "HONOUR_STRIPE_DISCOUNTS",
            "with the discounts of customers at Stripe would",
        ),
    ],
)
def test_a_setting_of_all_bills_that_was_lost_is_reviewed(
    light_platform: SmallPlatform, policy: Policy, setting: str, said: str
) -> None:
    light_platform.policy = policy

    def lose() -> None:
        light_platform.policy = USUAL_POLICY

    ((code, text),) = live_through(light_platform, (), lose)

    assert code == "terms_gone"
    assert said in text
    assert f"(see {setting})" in text


@pytest.mark.both_databases
def test_a_column_of_accounts_that_was_lost_is_reviewed(platform: SmallPlatform) -> None:
    columns = ("UPDATE billing_accounts SET collection = 'send'",)

    ((code, text),) = live_through(
        platform,
        columns,
        lambda: platform.sql("ALTER TABLE billing_accounts RENAME collection TO how"),
    )

    assert code == "terms_gone"
    assert "the 2 users who were billed by an invoice in the mail would be billed without" in text


def test_a_currency_that_was_lost_is_reviewed(light_platform: SmallPlatform) -> None:
    platform = light_platform
    euros = "UPDATE billing_accounts SET currency = 'eur'"

    ((code, text),) = live_through(
        platform, (euros,), lambda: platform.sql("UPDATE billing_accounts SET currency = NULL")
    )

    assert code == "terms_gone"
    assert "2 of 2 users would be billed in another currency" in text


def test_one_user_who_is_not_billed_by_mail_any_more_or_in_another_currency_is_not(
    light_platform: SmallPlatform,
) -> None:
    platform = light_platform
    columns = ("UPDATE billing_accounts SET collection = 'send' WHERE user_id = 'anna'",)
    changed = "UPDATE billing_accounts SET collection = NULL, currency = 'eur' WHERE user_id = 'anna'"

    assert live_through(platform, columns, lambda: platform.sql(changed)) == []
