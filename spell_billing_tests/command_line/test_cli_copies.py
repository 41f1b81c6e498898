"""A call that was written again at midnight, through the commands: a person is asked before it is charged."""

from collections.abc import Callable
from typing import Any

from spell_billing_tests.command_line.test_cli_review import APRIL, MARCH, USERS, bill, month_of

TWICE = (
    "INSERT INTO usage_counters (id, user_id, cost_cents, created_at) "
    "VALUES (700, 'user-07', 1000, '2025-03-31 23:59:59'), (700, 'user-07', 1000, '2025-04-01 00:00:01')"
)


def test_a_call_on_both_sides_of_midnight_holds_the_month_until_it_is_deleted_or_approved(
    make_shop: Callable[..., Any],
) -> None:
    shop = make_shop("sqlite", ready=True)
    shop.accounts(*USERS)
    shop.execute("DROP TABLE usage_counters")
    shop.execute(
        "CREATE TABLE usage_counters (id INTEGER, user_id TEXT, cost_cents INTEGER, created_at TEXT, "
        "PRIMARY KEY (id, created_at))"
    )
    for month in (MARCH, APRIL):
        month_of(shop, month)
    shop.execute(TWICE)
    assert bill(shop, MARCH, code=0)
    requests = len(shop.double.requests)

    held = bill(shop, APRIL, code=3)

    assert (
        "2025-03 and 2025-04 have rows with the same id, user and cost, within a day: id 700." in held.stdout
    )
    assert len(shop.double.requests) == requests
    shop.execute("DELETE FROM usage_counters WHERE id = 700 AND created_at > '2025-04'")
    bill(shop, APRIL, code=0)
