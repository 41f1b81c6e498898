"""A small platform with rate cards, and calls with an endpoint and a quantity."""

from typing import Any

from spell_billing.core.month import Month
from spell_billing.usage.contract import SourceRules
from spell_billing_tests.proof.small_platform import SmallPlatform

BY_ENDPOINT = SourceRules(items_by="endpoint")
_CARD = {"plan_id": None, "item": None, "model": "flat", "unit": "call", "up_to": None, "unit_price_cents": 1}
CHAT: list[dict[str, Any]] = [
    {"item": "/chat", "model": "graduated", "up_to": 3, "unit_price_cents": "10"},
    {"item": "/chat", "model": "graduated", "unit_price_cents": "2.5"},
]
"""Three calls of /chat at 10 cents, then 2.5 cents each."""
DEAR = {"plan_id": "dear", "item": "/chat", "unit_price_cents": "100"}
CHEAP = {"plan_id": "cheap", "item": "/chat", "unit_price_cents": "1"}


def insert(platform: SmallPlatform, month: Month, *rows: tuple[Any, ...], day: int = 15) -> None:
    """Insert calls as (user, cents, endpoint), or with a quantity after it."""
    for user, cents, endpoint, *quantity in rows:
        values = ["NULL" if each is None else f"'{each}'" for each in (endpoint, *quantity)]
        columns = f"user_id, cost_cents, created_at, endpoint{', quantity' if quantity else ''}"
        platform.sql(
            f"INSERT INTO usage_counters ({columns}) "
            f"VALUES ('{user}', {cents}, '{month}-{day:02} 12:00:00+00:00', {', '.join(values)})"
        )


def cards(platform: SmallPlatform, *rows: dict[str, Any], quantity: bool = False) -> None:
    """Make the table of rate cards with these rows, given as what differs from a cent a call."""
    is_sqlite = platform.url.startswith("sqlite")
    number, day = ("text", "text") if is_sqlite else ("numeric", "date")
    platform.sql(
        "CREATE TABLE IF NOT EXISTS rate_cards (plan_id text, item text, model text, unit text, "
        f"up_to {number}, unit_price_cents {number}, package_size {number}, valid_from {day})"
    )
    if quantity:
        platform.sql(
            f"ALTER TABLE usage_counters ADD COLUMN quantity {'integer' if is_sqlite else 'numeric'}"
        )
    for row in rows:
        values = {**_CARD, **row}
        if plan := values["plan_id"]:
            platform.sql(
                f"INSERT INTO billing_plans (plan_id, name, included_cents) SELECT '{plan}', '{plan}', 0 "
                f"WHERE NOT EXISTS (SELECT 1 FROM billing_plans WHERE plan_id = '{plan}')"
            )
        texts = ("NULL" if each is None else f"'{each}'" for each in values.values())
        platform.sql(f"INSERT INTO rate_cards ({', '.join(values)}) VALUES ({', '.join(texts)})")
