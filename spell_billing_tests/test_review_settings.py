"""Settings of the review: their defaults, and each refusal with its remedy."""

import pytest

from spell_billing.core.errors import SettingsError
from spell_billing.core.plausible import HoldRules
from spell_billing.core.review import ReviewRules
from spell_billing.settings.review import ReviewSettings


def test_defaults_and_what_the_environment_says() -> None:
    settings = ReviewSettings({})
    assert settings.review_rules == ReviewRules(5, 50, 200, 10_000)
    assert settings.hold_rules == HoldRules(None, 10, 50_000)

    settings = ReviewSettings(
        {
            "REVIEW_PAST_PERCENT": "0",
            "REVIEW_MONTH_PERCENT": "20, 80",
            "REVIEW_FLOOR_CENTS": "1",
            "HOLD_OVER_CENTS": "0",
            "HOLD_OVER_MULTIPLE": "3",
            "HOLD_FLOOR_CENTS": "7",
        }
    )
    assert settings.review_rules == ReviewRules(0, 20, 80, 1)
    assert settings.hold_rules == HoldRules(0, 3, 7)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("REVIEW_PAST_PERCENT", "101"),
        ("REVIEW_PAST_PERCENT", "-1"),
        ("REVIEW_PAST_PERCENT", "5%"),
        ("REVIEW_MONTH_PERCENT", "50"),
        ("REVIEW_MONTH_PERCENT", "50,200,3"),
        ("REVIEW_MONTH_PERCENT", "0,200"),
        ("REVIEW_MONTH_PERCENT", "101,200"),
        ("REVIEW_MONTH_PERCENT", "50,0"),
        ("REVIEW_MONTH_PERCENT", "50,"),
        ("REVIEW_FLOOR_CENTS", "1.5"),
        ("REVIEW_FLOOR_CENTS", "²"),
        ("HOLD_OVER_CENTS", "much"),
        ("HOLD_OVER_MULTIPLE", "0"),
        ("HOLD_FLOOR_CENTS", "9" * 5_000),
    ],
)
def test_a_malformed_setting_is_refused_by_name_with_the_remedy(name: str, text: str) -> None:
    settings = ReviewSettings({name: text})
    with pytest.raises(SettingsError, match=f"^{name}=.*Write ") as refused:
        _ = settings.hold_rules if name.startswith("HOLD") else settings.review_rules
    assert str(refused.value).count("\n") == 0
