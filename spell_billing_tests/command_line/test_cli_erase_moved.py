"""`erase-user` after `move-user`: an open grant is asked about where it pays."""

from collections.abc import Callable
from typing import Any

import pytest

OLD, NEW = "ann-0001", "bob-0002"
WHY = ("--reason", "ticket 4711")
GRANT = ("grant", "--user", OLD, "--cents", "500", "--expires", "2099-01-01", "--id", "welcome-1", *WHY)


@pytest.fixture
def shop(make_shop: Callable[..., Any]) -> Any:
    """Bill March; give Ann a grant, and move her to Bob; bill April, and delete the rows of both."""
    shop = make_shop("sqlite", ready=True)
    shop.accounts(OLD, NEW, "stays")
    for month in ("2025-03", "2025-04"):
        shop.calls(month, ("stays", 500))
    shop.calls("2025-03", (OLD, 1000), (NEW, 300))
    for command in (
        ("bill", "--month", "2025-03"),
        GRANT,
        ("move-user", "--from", OLD, "--to", NEW, *WHY),
        ("bill", "--month", "2025-04"),
        ("bill", "--month", "2025-03", "--verify"),
    ):
        done = shop.run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
    for table in ("usage_counters", "billing_accounts"):
        shop.execute(f"DELETE FROM {table} WHERE user_id IN ('{OLD}', '{NEW}')")
    return shop


def test_whose_grant_moved_is_erased_and_the_grant_stays_with_the_new_id(shop: Any) -> None:
    erased = shop.run("erase-user", OLD)

    assert erased.returncode == 0, erased.stderr
    assert "$5.00 left" in shop.run("grants", "--user", NEW).stdout


def test_who_has_a_grant_by_a_move_is_not_erased_before_it_is_revoked(shop: Any) -> None:
    refused = shop.run("erase-user", NEW)

    assert refused.returncode == 1
    assert f"User {NEW} cannot be erased yet: $5.00 of grant welcome-1 is not used." in refused.stderr
    assert "`spell-billing revoke-grant`" in refused.stderr
    assert shop.run("revoke-grant", "--id", "welcome-1", *WHY).returncode == 0
    assert f"User {NEW} cannot be erased" not in shop.run("erase-user", NEW).stderr
