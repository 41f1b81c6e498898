"""Usage that moved from one user to another is neither charged again nor given back."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spell_billing.core.errors import LedgerError
from spell_billing.core.outcomes import State
from spell_billing.ledger.moves import Heirs, record_move
from spell_billing.ledger.rows import Actor
from spell_billing_tests.proof.small_platform import APRIL, JUNE, MARCH, MAY, NOW, SmallPlatform

OLD, NEW, THIRD = "user-0001", "user-0002", "user-0003"


def move(platform: SmallPlatform, from_user: str = OLD, to_user: str = NEW) -> bool:
    with platform.ledger() as ledger, ledger.writing() as connection:
        return record_move(
            connection,
            from_user,
            to_user,
            reason="merged",
            actor=Actor("support"),
            has_usage=lambda user_id: user_id.startswith("user"),
            now=NOW,
        )


def rename(platform: SmallPlatform, cents: int | None = None, old: str = OLD, new: str = NEW) -> None:
    some = f" AND cost_cents = {cents}" if cents else ""
    platform.sql(f"UPDATE usage_counters SET user_id = '{new}' WHERE user_id = '{old}'{some}")


def kinds(platform: SmallPlatform, month: object, user: str) -> list[tuple[str, int]]:
    return platform.lines(month, user)  # type: ignore[arg-type]


def billed_cents(platform: SmallPlatform) -> int:
    return sum(each.total_cents for each in platform.standing())


def test_a_new_id_in_the_past_rows_charges_and_gives_back_nothing(platform: SmallPlatform) -> None:
    platform.accounts(OLD, NEW)
    platform.calls(MARCH, (OLD, 1000), (OLD, 7))
    platform.bill(MARCH)
    rename(platform)
    assert move(platform)
    platform.calls(APRIL, (NEW, 40))

    platform.bill(APRIL)
    platform.bill(MAY)

    assert kinds(platform, APRIL, OLD) == [("moved", 0)]
    assert platform.bill_of(APRIL, OLD).state is State.SKIPPED
    assert kinds(platform, APRIL, NEW) == [("usage", 40), ("moved", 0)]
    assert "Moved between users - March 2025 (2 calls, 1007 cents)" in [
        line.description for line in platform.bill_of(APRIL, NEW).parsed_lines
    ]
    assert [each.total_cents for each in platform.standing()] == [1007, 40]
    assert [len(each.lines) for each in platform.standing()] == [1, 1]
    assert platform.generations(MAY, OLD) == platform.generations(MAY, NEW) == []
    for month in (MARCH, APRIL, MAY):
        platform.must_agree(month)


def test_without_the_record_the_new_id_is_charged_and_the_old_one_credited(
    light_platform: SmallPlatform,
) -> None:
    light_platform.accounts(OLD, NEW)
    light_platform.calls(MARCH, (OLD, 1000))
    light_platform.bill(MARCH)
    rename(light_platform)
    light_platform.bill(APRIL)
    assert kinds(light_platform, APRIL, NEW) == [("late_usage", 1000)]
    assert light_platform.bill_of(APRIL, OLD).carried_cents == 1000


@pytest.mark.both_databases
def test_a_merger_with_a_user_who_has_bills_and_a_plan_is_a_move(platform: SmallPlatform) -> None:
    platform.source.plans([{"plan_id": "pro", "name": "Pro", "included_cents": 500}])
    platform.accounts(OLD, NEW, plan_id="pro")
    platform.calls(MARCH, (OLD, 100), (NEW, 800))
    platform.bill(MARCH)
    rename(platform)
    platform.calls(MARCH, (NEW, 30))
    move(platform)
    platform.bill(APRIL)

    assert kinds(platform, APRIL, NEW) == [("late_usage", 30), ("moved", 0)]
    assert billed_cents(platform) == 300 + 30


def test_of_usage_that_moved_in_part_the_rest_is_late_usage(light_platform: SmallPlatform) -> None:
    light_platform.accounts(OLD, NEW)
    light_platform.calls(MARCH, (OLD, 600), (OLD, 400))
    light_platform.bill(MARCH)
    rename(light_platform, 600)
    light_platform.sql("DELETE FROM usage_counters WHERE cost_cents = 400")
    light_platform.calls(MARCH, (NEW, 50))
    move(light_platform)
    light_platform.calls(MAY, (NEW, 2000))

    light_platform.bill(APRIL)
    light_platform.bill(MAY)

    # Lost are 1000, gained 650: 350 were charged, and are gone. Their credit goes to the heir.
    assert kinds(light_platform, APRIL, OLD) == [("late_usage", -350), ("moved", 0)]
    assert kinds(light_platform, APRIL, NEW) == [("moved", 0)]
    assert kinds(light_platform, MAY, NEW) == [("usage", 2000), ("credit", -350)]


def test_a_chain_of_moves_in_several_months_and_back_again(light_platform: SmallPlatform) -> None:
    light_platform.accounts(OLD, NEW, THIRD)
    light_platform.calls(MARCH, (OLD, 1000))
    light_platform.calls(APRIL, (OLD, 300))
    light_platform.bill(MARCH)
    light_platform.bill(APRIL)
    rename(light_platform)
    move(light_platform)
    light_platform.bill(MAY)
    rename(light_platform, old=NEW, new=THIRD)
    light_platform.calls(MARCH, (THIRD, 5))
    move(light_platform, NEW, THIRD)
    light_platform.bill(JUNE)
    assert kinds(light_platform, JUNE, THIRD) == [("late_usage", 5), ("moved", 0), ("moved", 0)]
    rename(light_platform, old=THIRD, new=OLD)
    move(light_platform, THIRD, OLD)
    light_platform.bill(JUNE.next())

    assert billed_cents(light_platform) == 1305


def test_a_move_of_usage_that_was_never_charged_charges_the_heir(light_platform: SmallPlatform) -> None:
    light_platform.accounts(NEW)
    light_platform.calls(MARCH, (OLD, 1000))
    light_platform.bill(MARCH)
    assert light_platform.bill_of(MARCH, OLD).state is State.FAILED
    rename(light_platform)
    move(light_platform)

    light_platform.bill(APRIL)
    light_platform.bill(MARCH)
    light_platform.bill(MAY)

    assert light_platform.bill_of(MARCH, OLD).state is State.SKIPPED
    assert [(each.customer, each.total_cents) for each in light_platform.standing()] == [(f"cus_{NEW}", 1000)]


def test_a_heir_whose_bill_is_drafted_again_is_not_charged_either(light_platform: SmallPlatform) -> None:
    light_platform.accounts(OLD)
    light_platform.calls(MARCH, (OLD, 1000))
    light_platform.bill(MARCH)
    rename(light_platform)
    move(light_platform)
    light_platform.calls(APRIL, (NEW, 40))
    light_platform.bill(APRIL)
    assert light_platform.bill_of(APRIL, NEW).state is State.FAILED
    light_platform.accounts(NEW)

    light_platform.bill(APRIL)
    light_platform.bill(MAY)

    assert kinds(light_platform, APRIL, NEW) == [("usage", 40), ("moved", 0)]
    assert billed_cents(light_platform) == 1040


def test_a_credit_follows_its_user_and_is_used_once(light_platform: SmallPlatform) -> None:
    light_platform.accounts(OLD, NEW)
    light_platform.calls(MARCH, (OLD, -500))
    light_platform.bill(MARCH)
    light_platform.calls(APRIL, (OLD, 100))
    light_platform.bill(APRIL)
    move(light_platform)
    light_platform.calls(MAY, (NEW, 300), (OLD, 50))
    light_platform.bill(MAY)
    light_platform.calls(JUNE, (NEW, 900))
    light_platform.bill(JUNE)

    assert kinds(light_platform, APRIL, OLD) == [("usage", 100), ("credit", -100)]
    assert kinds(light_platform, MAY, OLD) == [("usage", 50)]
    assert kinds(light_platform, MAY, NEW) == [("usage", 300), ("credit", -300)]
    assert kinds(light_platform, JUNE, NEW) == [("usage", 900), ("credit", -100)]


def test_a_move_is_refused_for_one_user_and_for_one_that_nobody_knows(light_platform: SmallPlatform) -> None:
    with pytest.raises(LedgerError, match="cannot move to itself"):
        move(light_platform, OLD, OLD)
    for pair in ((OLD, "nobody"), ("nobody", NEW)):
        with pytest.raises(LedgerError, match="User nobody has no bill and no usage"):
            move(light_platform, *pair)


def test_a_move_is_recorded_once_with_who_and_why(light_platform: SmallPlatform) -> None:
    assert move(light_platform)
    assert not move(light_platform)

    (entry,) = light_platform.trail(MARCH.plus(10), OLD)
    assert datetime(2026, 1, 1, tzinfo=UTC) == NOW
    assert (entry["action"], entry["actor"]) == ("user_moved", "support")
    assert entry["detail"] == f"{OLD} -> {NEW}: merged"


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from("abcde")), max_size=12))
def test_whatever_moves_are_recorded_each_user_has_one_heir(recorded: list[tuple[str, str]]) -> None:
    recorded = [(old, new) for old, new in recorded if old != new]
    heirs = Heirs.of(recorded)

    for user in "abcde":
        assert heirs.heir_of(heirs.heir_of(user)) == heirs.heir_of(user)
        assert user in heirs.together_with(user)
    if recorded:
        old, new = recorded[-1]
        assert heirs.heir_of(old) == heirs.heir_of(new)
