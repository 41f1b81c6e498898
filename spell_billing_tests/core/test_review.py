"""The rules of a month's review: what holds it, and what never does."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spell_billing.core.late import Usage
from spell_billing.core.moves import merges, pair_moves, without_moves
from spell_billing.core.past import Changed, PastAmounts, PastChange, net_differences, sum_changes
from spell_billing.core.plausible import HoldRules, Usual, why_not_plausible
from spell_billing.core.review import (
    Code,
    Coverage,
    Finding,
    MonthTotals,
    ReviewRules,
    account_findings,
    month_findings,
    past_findings,
)
from spell_billing.core.review_ledger import move_findings

RULES = ReviewRules()
COUNT = st.integers(0, 10**6)
MONEY = st.dictionaries(st.sampled_from(["usd", "eur", "jpy"]), st.integers(0, 10**9))


def totals(month: str, users: int, calls: int, **cents: int) -> MonthTotals:
    return MonthTotals(month, users, calls, cents)


def codes(findings: list[Finding]) -> list[Code]:
    return [finding.code for finding in findings]


@given(users=COUNT, calls=COUNT, cents=MONEY)
def test_without_history_no_month_is_implausible(users: int, calls: int, cents: dict[str, int]) -> None:
    assert month_findings(MonthTotals("2026-10", users, calls, cents), [], RULES) == []


@given(users=COUNT, calls=COUNT, cents=MONEY, number=st.integers(1, 3))
def test_a_month_like_those_before_is_never_held(
    users: int, calls: int, cents: dict[str, int], number: int
) -> None:
    same = MonthTotals("2026-10", users, calls, cents)
    assert month_findings(same, [same] * number, RULES) == []


@given(users=COUNT, calls=COUNT, cents=st.integers(0, 10_000), before=st.integers(1, 10_000))
def test_no_difference_up_to_the_floor_is_held(users: int, calls: int, cents: int, before: int) -> None:
    current, previous = totals("2026-10", users, calls + 1, usd=cents), totals("2026-09", 7, 7, usd=before)
    assert month_findings(current, [previous], RULES) == []


@given(users=COUNT, calls=st.integers(1, 10**6), cents=MONEY, rules=st.builds(ReviewRules, *[COUNT] * 4))
def test_a_month_without_a_row_after_one_with_rows_is_held_whatever_the_rules(
    users: int, calls: int, cents: dict[str, int], rules: ReviewRules
) -> None:
    current = MonthTotals("2026-10", users, 0, cents)
    found = month_findings(current, [totals("2026-09", users, calls)], rules)
    assert codes(found) == [Code.MONTH_EMPTY]


@pytest.mark.parametrize(
    ("cents", "held"),
    [(50_000, False), (49_999, True), (300_000, False), (300_001, True), (0, True)],
)
def test_the_amount_is_compared_with_the_mean_down_and_up(cents: int, held: bool) -> None:  # noqa: FBT001
    before = [totals("2026-09", 10, 10, usd=150_000), totals("2026-08", 10, 10, usd=50_000)]
    found = month_findings(totals("2026-10", 10, 10, usd=cents), before, RULES)
    assert codes(found) == ([Code.MONTH_NOT_PLAUSIBLE] if held else [])


def test_currencies_do_not_cover_for_each_other() -> None:
    before = [totals("2026-09", 10, 10, usd=100_000, eur=100_000)]
    (found,) = month_findings(totals("2026-10", 10, 10, usd=20_000, eur=180_000), before, RULES)
    assert found.text == ("2026-10 is far from the billed month before: $200.00 where $1,000.00 is usual.")


def changed(users: int = 100, lost: int = 0, **amounts: tuple[int, int, int]) -> PastChange:
    return PastChange(
        "2026-09",
        users,
        lost,
        {name: PastAmounts(*map(Decimal, each)) for name, each in amounts.items()},
    )


@pytest.mark.parametrize(
    ("change", "held"),
    [
        (changed(lost=5, usd=(10_000, 500, 500)), False),
        (changed(lost=6, usd=(10_000, 0, 0)), True),
        (changed(usd=(10_000, 501, 0)), True),
        (changed(usd=(10_000, 0, 501)), True),
        (changed(usd=(10_000, 0, 0), eur=(100, 6, 0)), True),
        (changed(usd=(0, 0, 1)), True),
        (changed(usd=(-10_000, 500, 0)), False),
        (changed(usd=(-10_000, 501, 0)), True),
    ],
)
def test_the_past_may_change_by_so_much_each_way(change: PastChange, held: bool) -> None:  # noqa: FBT001
    assert codes(past_findings([change], RULES)) == ([Code.PAST_CHANGED] if held else [])


@given(users=st.integers(100, 10_000), late=st.integers(1, 5))
def test_many_users_with_a_few_late_cents_are_normal(users: int, late: int) -> None:
    differences = {("2026-09", str(user)): Usage(1, Decimal(late)) for user in range(users)}
    billed = {"2026-09": changed(users, usd=(users * 100, 0, 0))}
    assert past_findings(sum_changes(differences, billed, {}), RULES) == []


def test_as_much_lost_as_gained_is_two_changes_not_none() -> None:
    differences = {
        ("2026-09", "a"): Usage(-3, Decimal(-700)),
        ("2026-09", "b"): Usage(9, Decimal(700)),
    }
    (change,) = sum_changes(differences, {"2026-09": changed(usd=(1_000, 0, 0))}, {})
    (found,) = past_findings([change], RULES)
    assert "$7.00 of $10.00 is gone (70%); $7.00 of $10.00 was added (70%)" in found.text


ROWS: list[Changed] = [
    ("2026-08", "a", -2, Decimal("20.5")),
    ("2026-08", "a", -2, Decimal(-41)),
    ("2026-08", "b", 4, Decimal("20.5")),
    ("2026-09", "a", -1, Decimal(-5)),
    ("2026-09", "b", 1, Decimal(5)),
    ("2026-09", "c", 1, Decimal(5)),
]


def test_a_move_pairs_who_lost_with_who_gained_the_same_in_the_most_months() -> None:
    differences = net_differences(ROWS, str)
    moves = pair_moves(differences, lambda _month, _user: True)

    assert [(each.from_user, each.to_user, each.months) for each in moves] == [
        ("a", "b", ("2026-08", "2026-09"))
    ]
    assert set(without_moves(differences, moves)) == {("2026-09", "c")}
    (found,) = move_findings(moves)
    assert "spell-billing move-user --from a --to b --reason" in found.text


def test_users_who_became_one_are_moves_each() -> None:
    differences = net_differences(
        [
            ("2026-09", "a", -3, Decimal(30)),
            ("2026-09", "b", -1, Decimal("-2.5")),
            ("2026-09", "c", -2, Decimal(-7)),
            ("2026-09", "one", 3, Decimal("9.5")),
            ("2026-09", "gone", -9, Decimal(-90)),
        ],
        lambda user: user,
    )
    found = merges(differences, lambda _, user: user != "gone")
    assert [(each.from_user, each.to_user) for each in found] == [("b", "one"), ("c", "one")]
    assert merges(differences, lambda _, user: user == "b") == []


def test_merges_are_looked_up_for_as_many_who_gained_as_there_are() -> None:
    # One sum after another for each who gained would be 600 million of them.
    lost = [("2026-09", f"lost-{number:02}", -(1 << number), Decimal(-1)) for number in range(20)]
    gained = [("2026-09", f"gained-{number}", 1, Decimal(number)) for number in range(100_000)]
    both = ("2026-09", "one", 3, Decimal(2))

    found = merges(net_differences([*lost, *gained, both], lambda user: user), lambda _month, _user: True)

    assert [(each.from_user, each.to_user) for each in found] == [("lost-00", "one"), ("lost-01", "one")]


def test_a_recorded_move_is_no_change_at_all() -> None:
    heirs = {"a": "b"}
    found = net_differences(ROWS, lambda user: heirs.get(user, user))
    assert found == {("2026-09", "c"): Usage(1, Decimal(5))}


@pytest.mark.parametrize(
    ("coverage", "expected"),
    [
        (Coverage(300, 30_000, 3, 200), []),
        (Coverage(1, 500, 1, 500), []),
        (Coverage(4, 1_000, 1, 900), []),
        (Coverage(4, 1_000, 4, 1_000), [Code.NO_ACCOUNTS]),
        (Coverage(9, 1_000, 2, 501), [Code.NO_ACCOUNTS]),
        (Coverage(9, 1_000, 2, 500), []),
        (Coverage(0, 0, 0, 0), []),
        (Coverage(3, 300, 3, 300, 3, [("A", "a")]), [Code.IDS_DIFFER]),
        (Coverage(9, 900, 9, 900, 1, [("A", "a")]), [Code.IDS_DIFFER, Code.NO_ACCOUNTS]),
        (Coverage(1_000, 900, 100, 90, 49, [("A", "a")]), []),
    ],
)
def test_accounts_that_most_users_lack_are_one_finding(coverage: Coverage, expected: list[Code]) -> None:
    assert codes(account_findings(coverage)) == expected


@pytest.mark.parametrize(
    ("cents", "usual", "rules", "held"),
    [
        (60_000, Usual(18_000, 3), HoldRules(), False),
        (60_001, Usual(18_000, 3), HoldRules(), True),
        (50_000, Usual(3, 3), HoldRules(), False),
        (10**9, None, HoldRules(), False),
        (10_001, None, HoldRules(over_cents=10_000), True),
        (10_000, None, HoldRules(over_cents=10_000), False),
        (60_000, Usual(0, 2), HoldRules(), True),
    ],
)
def test_a_user_is_compared_with_the_own_past(
    cents: int,
    usual: Usual | None,
    rules: HoldRules,
    held: bool,  # noqa: FBT001
) -> None:
    assert (why_not_plausible(cents, "usd", usual, rules) is not None) is held


@given(
    cents=st.integers(0, 10**9),
    usual=st.builds(Usual, COUNT, st.integers(1, 3)),
    rules=st.builds(HoldRules, st.none() | COUNT, st.integers(1, 100), COUNT),
)
def test_no_bill_up_to_the_least_amount_is_held(cents: int, usual: Usual, rules: HoldRules) -> None:
    least = rules.floor_cents if rules.over_cents is None else min(rules.floor_cents, rules.over_cents)
    if cents <= least:
        assert why_not_plausible(cents, "usd", usual, rules) is None
