"""Rows of billed months that cannot be billed any more: they count as they were frozen, on each bill."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spell_billing.stripe_double import StripeDouble
from spell_billing_tests.proof.leavers import ANN, BOB
from spell_billing_tests.proof.priced import BY_ENDPOINT, CHAT, cards, insert
from spell_billing_tests.proof.small_platform import APRIL, JUNE, MARCH, MAY, SmallPlatform


@pytest.fixture
def platform(
    make_source_tables: Callable[..., Any], double: StripeDouble, database_url: str, tmp_path: Path
) -> SmallPlatform:
    """Give an empty platform whose usage may lack users and costs."""
    tables = make_source_tables(database_url, not_null=False)
    return SmallPlatform(database_url, tables, double, tmp_path / "usage")


@pytest.mark.both_databases
def test_a_bill_that_is_drafted_again_has_a_frozen_row_that_cannot_be_billed_any_more(
    platform: SmallPlatform,
) -> None:
    platform.accounts(ANN)
    platform.calls(MARCH, (ANN, 500), (BOB, 700), (BOB, 40))
    platform.bill(MARCH)
    platform.accounts(BOB)
    platform.sql("UPDATE usage_counters SET cost_cents = NULL WHERE cost_cents = 700")
    platform.sql("DELETE FROM usage_counters WHERE cost_cents = 40")

    platform.bill(MARCH)
    assert platform.lines(MARCH, BOB) == [("usage", 740), ("late_usage", -40)]

    platform.sql("UPDATE usage_counters SET cost_cents = 700 WHERE cost_cents IS NULL")
    platform.calls(APRIL, (BOB, 1))
    platform.bill(APRIL)
    assert platform.lines(APRIL, BOB) == [("usage", 1)]
    for month in (MARCH, APRIL):
        platform.must_agree(month)


@pytest.mark.both_databases
def test_with_rate_cards_too_a_bad_row_moves_no_money_whatever_became_late_of_it_before(
    platform: SmallPlatform,
) -> None:
    platform.rules = BY_ENDPOINT
    platform.accounts(ANN, BOB, "cem")
    cards(platform, *CHAT)
    users = (ANN, BOB, "cem")
    insert(platform, MARCH, *[(user, 1, "/chat") for user in users], *[(user, 7, "/embed") for user in users])
    platform.bill(MARCH)
    platform.sql(f"UPDATE usage_counters SET user_id = '{BOB}' WHERE id = 1")
    insert(platform, APRIL, *[(user, 1, "/chat") for user in users])
    platform.bill(APRIL)
    assert platform.lines(APRIL, ANN) == [("usage", 10), ("late_usage", -10)]
    assert platform.lines(APRIL, BOB) == [("usage", 10), ("late_usage", 10)]

    platform.sql("UPDATE usage_counters SET user_id = NULL WHERE id IN (1, 3)")
    insert(platform, MARCH, ("cem", 1, "/embed"))
    insert(platform, MAY, *[(user, 1, "/chat") for user in users])
    platform.bill(MAY)
    assert platform.lines(MAY, ANN) == platform.lines(MAY, BOB) == [("usage", 10)]
    assert platform.lines(MAY, "cem") == [("usage", 10), ("late_usage", 1)]

    # Once it is deleted, it is given back to the one who paid for it.
    platform.sql("DELETE FROM usage_counters WHERE user_id IS NULL")
    insert(platform, JUNE, *[(user, 1, "/chat") for user in users])
    platform.bill(JUNE)
    assert platform.lines(JUNE, ANN) == [("usage", 10)]
    assert [platform.lines(JUNE, user)[1] for user in (BOB, "cem")] == [("late_usage", -10)] * 2
    for month in (MARCH, APRIL, MAY, JUNE):
        platform.must_agree(month)
