"""Who became whom: a command is named only where amounts tell it."""

from collections.abc import Sequence
from decimal import Decimal

import pytest

from spell_billing.core.late import Usage
from spell_billing.core.moves import Extent, Move, find_moves, merges, pair_moves, without_moves
from spell_billing.core.past import Differences
from spell_billing.core.review import Finding
from spell_billing.core.review_ledger import move_findings

Row = tuple[str, str, int]
"""A month, a user, and how many calls of 10 cents were lost or gained."""


def differences(*rows: Row) -> Differences:
    return {(month, user): Usage(calls, Decimal(10 * calls)) for month, user, calls in rows}


def pairs(found: Sequence[Move], *, told: bool) -> list[tuple[str, str]]:
    return [(each.from_user, each.to_user) for each in found if each.is_told is told]


def of(found: Sequence[Move]) -> Finding:
    (finding,) = move_findings(found)
    return finding


def lost_all(_month: str, _user: str) -> bool:
    return True


@pytest.mark.parametrize(
    "rows",
    [
        [("08", "a", -1), ("08", "b", -1), ("08", "x", 1), ("08", "y", 1)],
        [("08", "a", -1), ("08", "x", 1), ("08", "y", 1)],
        [("08", "a", -1), ("08", "b", -1), ("08", "x", 1)],
        [(month, user, calls) for month in ("08", "09") for user, calls in (("a", -1), ("x", 1), ("y", 1))],
        [("08", "a", -1), ("08", "x", 1), ("08", "y", 1), ("09", "b", -1), ("09", "y", 1), ("09", "z", 1)],
    ],
)
def test_where_several_lost_or_gained_the_same_no_command_is_named(rows: list[Row]) -> None:
    found = pair_moves(differences(*rows), lost_all)

    assert pairs(found, told=True) == []
    assert pairs(found, told=False)
    finding = of(found)
    assert "move-user --from" not in finding.text
    assert "Who became whom cannot be told of a" in finding.text
    assert finding.data["pairs"] == []
    assert finding.data["not_told"] == len(found)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        # Another month tells them apart,
        (
            [
                *(("08", "a", -1), ("08", "b", -1), ("08", "x", 1), ("08", "y", 1)),
                *(("09", "a", -2), ("09", "b", -3), ("09", "y", 2), ("09", "x", 3)),
            ],
            [("a", "y"), ("b", "x")],
        ),
        # or all months together do,
        (
            [
                *(("08", "a", -1), ("08", "b", -1), ("08", "x", 1), ("08", "y", 1)),
                *(("09", "a", -1), ("09", "c", -1), ("09", "x", 1), ("09", "z", 1)),
            ],
            [("a", "x"), ("b", "y"), ("c", "z")],
        ),
        # or the others are known.
        (
            [
                ("08", "a", -1),
                ("08", "b", -1),
                ("08", "x", 1),
                ("08", "y", 1),
                ("09", "a", -1),
                ("09", "x", 1),
            ],
            [("a", "x"), ("b", "y")],
        ),
    ],
)
def test_what_other_months_show_tells_who_is_meant(rows: list[Row], told: list[tuple[str, str]]) -> None:
    found = pair_moves(differences(*rows), lost_all)

    assert (pairs(found, told=True), pairs(found, told=False)) == (told, [])
    assert "cannot be told" not in of(found).text


def test_both_kinds_are_said_apart() -> None:
    found = pair_moves(
        differences(
            *(("08", "sure", -9), ("08", "new", 9)),
            *(("08", f"u{number}", -1) for number in range(5)),
            *(("08", f"v{number}", 1) for number in range(5)),
        ),
        lost_all,
    )

    text = of(found).text
    assert text.startswith("6 users lost in billed months exactly what another gained")
    assert "record it with `spell-billing move-user --from sure --to new --reason ...`, then" in text
    assert "Who became whom cannot be told of u0, u1, u2 and 2 more: several" in text


def test_which_users_became_one_is_not_told_if_others_could_be_meant() -> None:
    several_groups = differences(("08", "a", -1), ("08", "b", -1), ("08", "c", -1), ("08", "one", 2))
    several_ones = differences(("08", "a", -1), ("08", "b", -2), ("08", "one", 3), ("08", "other", 3))
    shared = differences(("08", "a", -1), ("08", "b", -2), ("08", "c", -4), ("08", "x", 3), ("08", "y", 5))
    clear = differences(("08", "a", -1), ("08", "b", -2), ("08", "c", -4), ("08", "x", 3))

    for unclear in (several_groups, several_ones, shared):
        found = merges(unclear, lost_all)
        assert pairs(found, told=True) == []
        assert pairs(found, told=False)
    assert pairs(merges(clear, lost_all), told=True) == [("a", "x"), ("b", "x")]


def test_a_whole_platform_that_changed_its_ids_is_looked_through_once() -> None:
    users = range(20_000)
    alike = [(month, f"{side}{user}", calls) for month in ("08", "09") for user in users
             for side, calls in (("old-", -1), ("new-", 1))]  # fmt: skip

    # Each with each would be 800 million pairs.
    found = pair_moves(differences(*alike, ("10", "old-7", -3), ("10", "new-8", 3)), lost_all)

    assert pairs(found, told=True) == [("old-7", "new-8")]


@pytest.mark.parametrize(
    ("rows", "told", "not_told"),
    [
        # Late usage of one's own beside it, also of a user whom several became;
        ([("08", "a", -10), ("08", "x", 12)], [("a", "x")], []),
        ([("08", "a", -10), ("08", "b", -5), ("08", "x", 16)], [("a", "x"), ("b", "x")], []),
        # in one month exactly, and in the next beyond it;
        ([("08", "a", -10), ("08", "x", 10), ("09", "a", -7), ("09", "x", 9)], [("a", "x")], []),
        # one of several possible, unless another month tells;
        ([("08", "a", -10), ("08", "x", 12), ("08", "y", 11)], [], ["a"]),
        ([("08", "a", -10), ("08", "b", -9), ("08", "x", 12)], [], ["a", "b"]),
        (
            [("08", "a", -1), ("08", "x", 3), ("08", "y", 4), ("09", "a", -7), ("09", "x", 8)],
            [("a", "x")],
            [],
        ),
        # too little, another month, or nothing lost.
        ([("08", "a", -10), ("08", "x", 9)], [], []),
        ([("08", "a", -10), ("09", "x", 12)], [], []),
        ([("08", f"u{number}", number % 9 + 1) for number in range(1_000)], [], []),
    ],
)
def test_who_lost_all_while_another_gained_at_least_that_may_have_become_the_other(
    rows: list[Row], told: list[tuple[str, str]], not_told: list[str]
) -> None:
    found = find_moves(differences(*rows), lost_all)

    assert pairs(found, told=True) == told
    assert [loser for loser, _ in pairs(found, told=False)] == not_told


def test_more_calls_that_cost_less_are_not_what_another_lost() -> None:
    cheaper = {("08", "a"): Usage(-2, Decimal(-20)), ("08", "x"): Usage(9, Decimal(19))}
    fewer = {("08", "a"): Usage(-2, Decimal(-20)), ("08", "x"): Usage(1, Decimal(90))}
    free = {("08", "a"): Usage(-2, Decimal(0)), ("08", "x"): Usage(9, Decimal(90))}

    assert [find_moves(each, lost_all) for each in (cheaper, fewer, free)] == [[], [], []]


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([("08", "a", -3), ("08", "x", 3), ("08", "y", 1)], [("a", "x")]),
        # Calls that cost the same,
        ([("08", "a", -1), ("08", "x", 1), ("08", "y", 1)], []),
        ([("08", "a", -1), ("08", "b", -1), ("08", "x", 1)], []),
        # and not to the cent.
        ([("08", "a", -3), ("08", "x", 4)], []),
    ],
)
def test_a_part_that_one_lost_and_one_gained_is_told_without_the_command(
    rows: list[Row], found: list[tuple[str, str]]
) -> None:
    moves = find_moves(differences(*rows), lambda _month, _user: False)

    assert pairs(moves, told=True) == found
    for each in moves:
        assert each.extent is Extent.PART
        assert "from a to x in 08. As it stands" in of(moves).text
        assert "move-user" not in of(moves).text


def test_what_may_be_a_chance_is_still_a_change_of_the_past() -> None:
    changed = differences(("08", "a", -10), ("08", "x", 12), ("08", "b", -3), ("08", "y", 3))
    found = find_moves(changed, lambda _month, user: user == "a")

    assert {each.extent for each in found} == {Extent.BEYOND, Extent.PART}
    assert without_moves(changed, found) == changed
    beyond, part = move_findings(found)
    assert "record it with `spell-billing move-user --from a --to x --reason ...`, then" in beyond.text
    assert (beyond.data["extent"], part.data["extent"]) == ("beyond", "part")


def test_as_many_who_gained_more_as_there_are_are_looked_through_once() -> None:
    users = range(20_000)
    changed = {("08", f"{side}{user}"): Usage(calls, Decimal(calls * (user + 1))) for user in users
               for side, calls in (("old-", -1), ("new-", 2))}  # fmt: skip

    # Each with each would be 400 million pairs.
    assert len(find_moves(changed, lost_all)) == len(users)
