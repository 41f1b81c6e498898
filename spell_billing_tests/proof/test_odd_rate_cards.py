"""Rate cards where the database is set up in an odd way, and cards and quantities that make no sense."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from spell_billing.core.errors import UsageError
from spell_billing.stripe_double import StripeDouble
from spell_billing.usage.contract import SourceRules
from spell_billing_tests.proof.leavers import ANN
from spell_billing_tests.proof.priced import cards, insert
from spell_billing_tests.proof.small_platform import APRIL, MARCH, SmallPlatform


@pytest.mark.parametrize("style", ["German", "SQL, DMY"])
def test_dates_are_read_as_ever_whatever_style_the_platform_s_database_prefers(
    make_source_tables: Callable[..., Any],
    double: StripeDouble,
    postgres_url: str,
    tmp_path: Path,
    style: str,
) -> None:
    platform = SmallPlatform(postgres_url, make_source_tables(postgres_url), double, tmp_path / "usage")
    platform.rules = SourceRules(items_by="day")
    name = psycopg.conninfo.conninfo_to_dict(postgres_url)["dbname"]
    platform.accounts(ANN)
    cards(platform, {"valid_from": "2025-03-01", "unit_price_cents": "3"})
    insert(platform, MARCH, (ANN, 1, None), (ANN, 1, None))
    platform.sql(
        "ALTER TABLE usage_counters ADD COLUMN day date DEFAULT '2025-03-04'",
        f"ALTER DATABASE {name} SET datestyle = '{style}'",
    )

    platform.bill(MARCH)

    assert platform.lines(MARCH, ANN) == [("usage", 6)]
    (line,) = platform.bill_of(MARCH, ANN).parsed_lines
    assert " - 2025-03-04 (2 calls, $0.06)" in line.description
    platform.must_agree(MARCH)


def test_a_month_that_was_frozen_with_an_idle_package_size_is_still_proven(
    light_platform: SmallPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = light_platform
    platform.accounts(ANN)
    cards(platform, {"package_size": 500, "unit_price_cents": "3"})
    insert(platform, MARCH, (ANN, 1, None))
    with monkeypatch.context() as patch:
        patch.setattr("spell_billing.usage.rate_cards.require_packages", lambda _: None)
        platform.bill(MARCH)

    platform.must_agree(MARCH)
    platform.sql("UPDATE rate_cards SET package_size = NULL")
    insert(platform, MARCH, (ANN, 1, None))
    platform.bill(APRIL)
    assert platform.lines(APRIL, ANN) == [("late_usage", 3)]


def test_an_absurd_amount_stops_the_month_by_the_user_and_the_item(light_platform: SmallPlatform) -> None:
    cards(light_platform, {"unit": "quantity", "unit_price_cents": "999999999999999999"}, quantity=True)
    insert(light_platform, MARCH, (ANN, 1, None, 2**62))

    with pytest.raises(UsageError) as refused:
        light_platform.draft(MARCH)
    told = f"User {ANN} has a quantity of {2**62} of item other, which come to 4611686018427387899"
    assert told in str(refused.value)
    assert "more than 64 bits hold. Correct it in usage_counters" in str(refused.value)
