"""The open month where rate cards price it: whatever is asked says what the bill will charge."""

from decimal import Decimal

import pytest

from spell_billing.core.errors import UsageError
from spell_billing.core.money import format_money, plain
from spell_billing.orchestration.sensors.spending import _spent
from spell_billing.reporting.preview import preview_drafts
from spell_billing.reporting.readiness import owing_so_far
from spell_billing.settings.databases import parse_database_url
from spell_billing.usage.source import open_usage_source
from spell_billing.web import forecast, standing
from spell_billing_tests.proof.priced import BY_ENDPOINT, CHAT, cards, insert
from spell_billing_tests.proof.small_platform import APRIL, SmallPlatform
from spell_billing_tests.web_pages.reading_pages import Page
from spell_billing_tests.web_pages.world import OpenDoors, api, token_of

ANN, BOB, CYD, DAN = "ann", "bob", "cyd", "dan"
BY_PLAN = {"plan_id": "pro", "unit": "quantity", "unit_price_cents": "0.125"}


@pytest.fixture
def priced(platform: SmallPlatform) -> SmallPlatform:
    """Give a platform in whose April calls, quantities and stored costs count, on plans and without one."""
    platform.rules = BY_ENDPOINT
    platform.source.plans([{"plan_id": "pro", "name": "Pro", "included_cents": 5}])
    platform.sql(
        "ALTER TABLE billing_plans ADD COLUMN monthly_fee_cents integer",
        "UPDATE billing_plans SET monthly_fee_cents = 900",
        "CREATE TABLE plan_subscriptions (user_id text, plan_id text, starts_at text, ends_at text)",
        f"INSERT INTO plan_subscriptions VALUES ('{BOB}', 'pro', '2025-04-16', NULL)",
        "ALTER TABLE billing_accounts ADD COLUMN spend_limit_cents integer",
    )
    platform.accounts(ANN, BOB)
    platform.accounts(DAN, plan_id="pro")
    platform.sql("UPDATE billing_accounts SET spend_limit_cents = 40")
    cards(platform, *CHAT, BY_PLAN, quantity=True)
    chat, other = (ANN, 999, "/chat", None), (ANN, 7, "/embed", 3)
    insert(platform, APRIL, *[chat] * 4, other, (BOB, 999, "/chat", 1), (BOB, 999, None, 150), day=1)
    insert(platform, APRIL, (BOB, 999, "/v1", 100), (CYD, 999, "/chat", None), (CYD, 31, None, None), day=2)
    return platform


@pytest.mark.both_databases
def test_every_view_of_the_open_month_is_what_the_preview_and_the_bill_say(
    priced: SmallPlatform, open_doors: OpenDoors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast, "WAIT_SECONDS", 30.0)
    monkeypatch.setattr(standing, "SLOW_SECONDS", 1_000.0)
    with open_doors(priced, LINE_ITEMS_BY="endpoint") as house:
        source = house.context.usage_source()
        drafts = {each.user_id: each for each in preview_drafts(APRIL, house.ledger, source, priced.store)}
        stands = {user: house.admit("GET", api(user, "standing")).json for user in drafts}
        used = {user: house.admit("GET", api(user, "usage?month=2025-04")).json for user in drafts}
        page = Page(house.admit("GET", "/billing", accept="text/html").text)
        user_page = house.ask("GET", f"/u/{token_of(house, BOB)}", accept="text/html").text
        owing = {each.user_id: each.cents for each in owing_so_far(source, APRIL, source.so_far(APRIL))}
        spent = _spent(source, source.spend_limits(), APRIL)

    # 4 calls of /chat are 32.5; 150 and 100 units 31.25, of which the allowance of half a month covers 2.
    assert {user: draft.usage_cents for user, draft in drafts.items()} == {
        ANN: Decimal("39.5"),
        BOB: Decimal("41.25"),
        CYD: Decimal(41),
        DAN: Decimal(0),
    }
    totals = {user: draft.total_cents for user, draft in drafts.items()}
    assert totals == {ANN: 40, BOB: 489, CYD: 41, DAN: 900}
    assert {user: each["so_far_cents"] for user, each in stands.items()} == totals
    assert {user: each["due_cents"] for user, each in used.items()} == totals
    assert {user: each["exact_usage_cents"] for user, each in used.items()} == {
        user: plain(draft.usage_cents) for user, draft in drafts.items()
    }
    assert used[ANN]["days"] is None
    assert format_money(totals[BOB]) in user_page
    assert owing == totals
    assert {user: each.so_far_cents for user, each in spent.items()} == {
        user: totals[user] for user in (ANN, BOB, DAN)
    }
    assert page.row("USD")[:3] == ["USD", "4", format_money(sum(totals.values()))]
    priced.draft(APRIL)
    assert {user: priced.bill_of(APRIL, user).total_cents for user in totals} == totals


@pytest.mark.both_databases
def test_a_call_without_its_quantity_is_refused_as_the_bill_would_be(priced: SmallPlatform) -> None:
    insert(priced, APRIL, (BOB, 9, "/v1", None), day=3)
    source = open_usage_source(parse_database_url(priced.url, setting="DATABASE_URL"), BY_ENDPOINT)

    with pytest.raises(UsageError, match="1 calls of user bob and item /v1 have no quantity"):
        source.spending(BOB, APRIL)
    with pytest.raises(UsageError, match="1 calls of user bob and item /v1 have no quantity"):
        source.so_far(APRIL)
    wrong = "0.5" if priced.url.startswith("sqlite") else "0.1234567891"
    priced.sql(f"UPDATE usage_counters SET quantity = {wrong} WHERE quantity IS NULL AND user_id = '{BOB}'")
    with pytest.raises(UsageError, match=r"no quantity|cannot be priced exactly"):
        source.spending(BOB, APRIL)
    assert source.spending(ANN, APRIL).month.cost_cents == Decimal("39.5")
