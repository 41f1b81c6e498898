"""`grant`, `grants`, `revoke-grant`: an amount in advance, from the promise to the overview."""

import json
from collections.abc import Callable
from typing import Any

import pytest

ONE = "user-0001"
GRANT = ("grant", "--user", ONE, "--cents", "500", "--expires", "2099-01-01", "--id", "welcome-1")
WHY = ("--reason", "ticket 4711")


@pytest.fixture(scope="module")
def shop(make_shop: Callable[..., Any]) -> Any:
    shop = make_shop("sqlite", ready=True)
    shop.accounts(ONE)
    shop.calls("2025-03", (ONE, 300))
    return shop


def test_a_grant_pays_a_month_and_what_is_left_is_told_everywhere(shop: Any) -> None:
    first, again = shop.run(*GRANT, *WHY), shop.run(*GRANT, *WHY)
    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    assert first.stdout == (
        f"Grant welcome-1: $5.00 for user {ONE}, for months that begin before 2099-01-01.\n"
    )
    assert again.stdout == f"Grant welcome-1 of $5.00 for user {ONE} already exists.\n"

    assert "skipped: 1 user, 1 calls, $0.00" in shop.run("preview", "--month", "2025-03").stdout
    assert shop.run("bill", "--month", "2025-03").returncode == 0
    assert shop.run("reconcile", "--month", "2025-03").returncode == 0
    told = shop.run("explain", "--month", "2025-03", "--user", ONE).stdout
    assert "Prepaid credit welcome-1 (-$3.00)" in told
    status = json.loads(shop.run("status", "--month", "2025-03", "--json").stdout)
    assert (status["grants_applied_cents"], status["forgiven_cents"]) == (300, 0)
    assert status["prepaid"] == [{"currency": "usd", "promotional_cents": 200, "paid_cents": 0}]
    words = shop.run("status", "--month", "2025-03").stdout
    assert "paid by grants: -$3.00" in words
    assert "Grants that are left today: $2.00 promotional, $0.00 bought." in words
    assert 'spell_billing_prepaid_cents{currency="usd",kind="promotional"} 200.0' in (
        shop.run("metrics", "--once").stdout
    )
    assert shop.run("grants", "--user", ONE).stdout == (
        f"welcome-1: user {ONE}, granted, $5.00 until 2099-01-01, $3.00 used; $2.00 left (ticket 4711)\n"
    )
    revoked = [shop.run("revoke-grant", "--id", "welcome-1", *WHY).stdout for _ in range(2)]
    assert revoked == ["$2.00 of grant welcome-1 was taken back.\n", "Nothing is left of grant welcome-1.\n"]
    (listed,) = json.loads(shop.run("grants", "--json").stdout)
    assert [listed[f"{name}_cents"] for name in ("granted", "applied", "revoked", "expired", "left")] == [
        *(500, 300, 200, 0, 0)
    ]


@pytest.mark.parametrize(
    ("changed", "code", "said"),
    [
        (("--cents", "501"), 1, "Grant welcome-1 already exists with another amount_cents."),
        (("--id", "w-2", "--user", "ghost"), 1, "User ghost has no bill, no account and no usage."),
        (("--id", "w-2", "--expires", "2025-01-01"), 1, "Grant w-2 would have expired on 2025-01-01."),
        (("--id", "w-2", "--currency", "dollars"), 1, "'dollars' is not a currency."),
        (("--id", "for-user-0001"), 1, "names the user"),
        (("--cents", "0"), 2, "--cents"),
        (("--expires", "soon"), 2, "'soon' is not a day"),
    ],
)
def test_a_wrong_grant_is_refused_in_a_sentence(
    shop: Any, changed: tuple[str, ...], code: int, said: str
) -> None:
    shop.run(*GRANT, *WHY)
    refused = shop.run(*GRANT, *WHY, *changed)
    assert (refused.returncode, refused.stdout) == (code, "")
    assert said in refused.stderr
