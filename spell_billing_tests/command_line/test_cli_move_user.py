"""`move-user`: a person records that usage moved, and nobody is charged twice."""

from collections.abc import Callable
from typing import Any

import pytest

OLD, NEW = "user-0001", "user-0002"
MOVE = ("move-user", "--from", OLD, "--to", NEW, "--reason", "ticket 4711")


@pytest.fixture(scope="module")
def shop(make_shop: Callable[..., Any]) -> Any:
    """Bill March 2025 of a shop whose user then gets a new id in all rows."""
    shop = make_shop("sqlite", ready=True)
    shop.accounts(OLD, NEW)
    shop.calls("2025-03", (OLD, 1000))
    assert shop.run("bill", "--month", "2025-03").returncode == 0
    shop.execute(f"UPDATE usage_counters SET user_id = '{NEW}'")
    return shop


def test_a_move_is_told_once_and_the_next_month_charges_nothing_for_it(shop: Any) -> None:
    first, again = shop.run(*MOVE), shop.run(*MOVE)
    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    assert first.stdout == (
        f"Usage of user {OLD} moved to {NEW}: late usage of both is netted from now on.\n"
    )
    assert again.stdout == f"Already recorded: usage of user {OLD} moved to {NEW}.\n"
    shop.calls("2025-04", (NEW, 20))

    billed = shop.run("bill", "--month", "2025-04")

    assert billed.returncode == 0, billed.stderr
    assert [each.total_cents for each in shop.double.invoices()] == [1000, 20]
    assert shop.run("reconcile", "--month", "2025-04").returncode == 0
    told = shop.run("explain", "--month", "2025-04", "--user", OLD).stdout
    assert "Moved between users - March 2025 (-1 calls, -1000 cents)" in told


def test_a_move_that_was_none_is_taken_back_and_credits_stay_where_they_are(
    make_shop: Callable[..., Any],
) -> None:
    shop = make_shop("sqlite", ready=True)
    shop.accounts(OLD, NEW)
    shop.calls("2025-03", (OLD, 1000), (NEW, -800))
    assert shop.run("bill", "--month", "2025-03").returncode == 0
    assert shop.run(*MOVE).returncode == 0

    undone = shop.run("move-user", "--from", OLD, "--undo", "--reason", "two people")
    again = shop.run("move-user", "--from", OLD, "--undo", "--reason", "two people")

    assert undone.stdout == (
        f"Usage of user {OLD} did not move to {NEW}: each keeps their own usage and credits.\n"
    )
    assert (again.returncode, again.stdout) == (1, "")
    assert f"No move of user {OLD} is recorded that counts." in again.stderr
    shop.calls("2025-04", (OLD, 1000), (NEW, 900))
    assert shop.run("bill", "--month", "2025-04").returncode == 0
    charged = {(each.metadata["spell_user_id"], each.total_cents) for each in shop.double.invoices()}
    assert charged == {(OLD, 1000), (NEW, 100)}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--from", OLD, "--to", OLD, "--reason", "x"), 1, f"Error: User {OLD} cannot move to itself."),
        (("--from", "ghost", "--to", OLD, "--reason", "x"), 1, "Error: User ghost has no bill and no usage."),
        (("--from", OLD, "--to", "ghost", "--reason", "x"), 1, "Error: User ghost has no bill and no usage."),
        (("--from", OLD, "--to", NEW, "--reason", " "), 2, "say why"),
        (("--from", OLD, "--reason", "x"), 2, "--to"),
        (("--from", OLD, "--to", NEW, "--undo", "--reason", "x"), 2, "--undo"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    shop: Any, arguments: tuple[str, ...], code: int, said: str
) -> None:
    refused = shop.run("move-user", *arguments)
    assert (refused.returncode, refused.stdout) == (code, "")
    assert said in refused.stderr
    assert code != 1 or len(refused.stderr.splitlines()) == 1


@pytest.fixture
def many(make_shop: Callable[..., Any]) -> Any:
    """Bill March of 40 users, two calls each: a change of one of them is far below `REVIEW_PAST_PERCENT`."""
    shop = make_shop("sqlite", ready=True)
    users = [f"u{number:02}" for number in range(40)]
    shop.accounts(*users)
    shop.calls("2025-03", *((user, 1000 + number) for number, user in enumerate(users) for _ in range(2)))
    assert shop.run("bill", "--month", "2025-03").returncode == 0
    shop.calls("2025-04", *((user, 1000) for user in users[2:] for _ in range(2)))
    return shop


def test_a_move_to_a_user_with_late_usage_of_their_own_is_held_and_netted_once_recorded(many: Any) -> None:
    many.execute("UPDATE usage_counters SET user_id = 'u02' WHERE user_id = 'u01'")
    many.calls("2025-03", ("u02", 50))

    held = many.run("bill", "--month", "2025-04")

    assert held.returncode == 3, held.stdout
    assert "`spell-billing move-user --from u01 --to u02 --reason ...`" in held.stdout
    assert many.run("move-user", "--from", "u01", "--to", "u02", "--reason", "merged").returncode == 0
    billed = many.run("bill", "--month", "2025-04")
    assert billed.returncode == 0, billed.stdout
    charged = {each.metadata["spell_user_id"]: each.total_cents for each in april(many)}
    assert (charged["u02"], charged.get("u01")) == (2050, None)
    assert many.run("reconcile", "--month", "2025-04").returncode == 0


def test_a_part_that_moved_is_held_and_credited_and_charged_once_approved(many: Any) -> None:
    many.execute(
        "UPDATE usage_counters SET user_id = 'u05' WHERE id = "
        "(SELECT max(id) FROM usage_counters WHERE user_id = 'u04' AND cost_cents = 1004)"
    )

    held = many.run("bill", "--month", "2025-04")

    assert held.returncode == 3, held.stdout
    assert "from u04 to u05 in 2025-03" in held.stdout
    assert "move-user --from" not in held.stdout
    assert many.run("approve", "--month", "2025-04", "--reason", "it was u05's").returncode == 0
    assert many.run("bill", "--month", "2025-04").returncode == 0
    charged = {each.metadata["spell_user_id"]: each.total_cents for each in april(many)}
    assert (charged["u04"], charged["u05"]) == (2000 - 1004, 2000 + 1004)
    assert many.run("reconcile", "--month", "2025-04").returncode == 0


def test_a_user_whose_rows_went_while_others_have_a_few_late_cents_moved_nowhere(many: Any) -> None:
    many.execute("DELETE FROM usage_counters WHERE user_id = 'u01'")
    many.calls("2025-03", *((f"u{number:02}", 50 + number) for number in range(2, 6) for _ in range(3)))

    assert many.run("bill", "--month", "2025-04").returncode == 0


def april(shop: Any) -> list[Any]:
    return [each for each in shop.double.invoices() if each.metadata["spell_month"] == "2025-04"]
