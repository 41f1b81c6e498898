"""Months with rate cards, from the rows to Stripe: priced as frozen, late usage too."""

import json
from decimal import Decimal

import pytest
from click.testing import CliRunner

from spell_billing.cli import main
from spell_billing.core.errors import IntegrityError, UsageError
from spell_billing.usage.user_usage import charged_totals
from spell_billing_tests.proof.leavers import ANN, BOB, erase, everything_stored, leave, pay
from spell_billing_tests.proof.priced import BY_ENDPOINT, CHAT, cards, insert
from spell_billing_tests.proof.small_platform import APRIL, MARCH, MAY, SmallPlatform


@pytest.mark.both_databases
def test_calls_are_priced_by_their_card_and_the_others_by_their_stored_cost(platform: SmallPlatform) -> None:
    platform.rules = BY_ENDPOINT
    platform.accounts(ANN, BOB)
    platform.sql(f"UPDATE billing_accounts SET plan_id = 'pro' WHERE user_id = '{BOB}'")
    cards(platform, *CHAT, {"plan_id": "pro", "item": "/chat", "unit_price_cents": "1.25"})
    insert(
        platform,
        MARCH,
        *[(ANN, 999, "/chat")] * 4,
        (ANN, 7, "/embed"),
        *[(BOB, 999, "/chat")] * 2,
        (BOB, 5, None),
    )

    platform.bill(MARCH, verify=True)

    assert platform.lines(MARCH, ANN) == [("usage", 33), ("usage", 7)]
    assert platform.bill_of(MARCH, ANN).usage_cents == Decimal("39.5")
    assert platform.lines(MARCH, BOB) == [("usage", 3), ("usage", 5)]
    assert platform.bill_of(MARCH, BOB).usage_cents == Decimal("7.5")
    result = platform.must_agree(MARCH)
    assert (result.frozen_calls, result.frozen_usage_cents) == (8, Decimal(47))


def test_an_erased_user_leaves_the_frozen_plans_too(light_platform: SmallPlatform) -> None:
    platform = light_platform
    platform.rules = BY_ENDPOINT
    platform.accounts(ANN, BOB, plan_id="pro")
    cards(platform, {"plan_id": "pro", "unit_price_cents": "3"}, {"unit_price_cents": "5"})
    insert(platform, MARCH, (ANN, 1, "/chat"), (ANN, 1, "/b"), (BOB, 1, "/chat"))
    platform.bill(MARCH)
    insert(platform, MARCH, (ANN, 1, "/chat"), (BOB, 1, "/chat"))
    insert(platform, APRIL, (ANN, 1, "/chat"))
    platform.bill(APRIL)
    pay(platform, MARCH, APRIL)
    leave(platform)

    pseudonym = erase(platform)

    assert ANN not in everything_stored(platform)
    assert platform.lines(MARCH, pseudonym) == [("usage", 3), ("usage", 3)]
    assert platform.lines(APRIL, pseudonym) == [("usage", 3), ("late_usage", 3)]
    for month in (MARCH, APRIL):
        platform.must_agree(month)
    insert(platform, MAY, (BOB, 1, "/chat"))
    platform.bill(MAY)
    assert platform.lines(MAY, BOB) == [("usage", 3)]


def test_a_preview_shows_the_prices_that_will_be_billed(
    light_platform: SmallPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = light_platform
    platform.accounts(ANN)
    cards(platform, *CHAT, {"item": "/v1", "unit_price_cents": "0.001"})
    insert(platform, MARCH, *[(ANN, 1, "/chat")] * 4)
    monkeypatch.setenv("DATABASE_URL", platform.url)
    monkeypatch.setenv("SPELL_BILLING_USAGE_STORE", str(platform.store_path))
    monkeypatch.setenv("LINE_ITEMS_BY", "endpoint")

    found = CliRunner().invoke(main, ["preview", "--month", "2025-03", "--json"])

    assert "  32.5 cents  $0.33\n" in CliRunner().invoke(main, ["preview", "--month", "2025-03"]).output
    (row,) = json.loads(found.output)
    assert (row["usage_cents"], row["total_cents"]) == (32.5, 33)


def test_the_command_line_explains_a_line_by_its_item_and_card(
    light_platform: SmallPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = light_platform
    platform.rules = BY_ENDPOINT
    platform.accounts(ANN)
    package = {
        "item": "/v1",
        "model": "package",
        "unit": "quantity",
        "package_size": 100,
        "unit_price_cents": 12,
    }
    cards(platform, *CHAT, package, quantity=True)
    insert(platform, MARCH, *[(ANN, 1, "/chat", 0)] * 4, (ANN, 9, "/v1", 150), (ANN, 5, None, 0))
    platform.bill(MARCH)
    monkeypatch.setenv("DATABASE_URL", platform.url)
    monkeypatch.setenv("SPELL_BILLING_USAGE_STORE", str(platform.store_path))

    text = CliRunner().invoke(main, ["explain", "--month", "2025-03", "--user", ANN]).output

    assert (
        "  /chat  4 calls  32.5 cents, priced by a graduated card for calls: 10 cents up to 3, 2.5 cents each"
        in text
    )
    assert "  /v1  1 calls  24 cents, priced by a package card of 100 for quantity 150: 12 cents each" in text
    assert "  other  1 calls  5 cents\n" in text
    assert "\n\nBill, generation 1: " in text
    assert "Spell Platform API Usage - March 2025 - /v1 (1 calls, $0.24)" in text


@pytest.mark.both_databases
@pytest.mark.parametrize(
    ("card", "told"),
    [
        (
            {"item": "/chat"},
            r"item /chat .* LINE_ITEMS_BY is not set, and no call has an item\. Set LINE_ITEMS_BY",
        ),
        ({"unit": "quantity"}, r"rate_cards prices a quantity, and usage_counters has no column quantity"),
        (
            {"up_to": 5},
            r"The rate card of every plan and every item from the beginning .* its last tier is missing",
        ),
        ({"package_size": 500}, r"it is flat, and package_size is '500'\. Write package as its model"),
    ],
)
def test_a_card_that_cannot_price_the_month_stops_it_before_anything_is_frozen(
    platform: SmallPlatform, card: dict[str, object], told: str
) -> None:
    cards(platform, card)
    insert(platform, MARCH, (ANN, 1, "/chat"))

    with pytest.raises(UsageError, match=told):
        platform.draft(MARCH)
    assert platform.store.versions(MARCH) == []


def test_a_card_of_a_plan_that_does_not_exist_stops_the_month(light_platform: SmallPlatform) -> None:
    cards(light_platform, {"plan_id": "gold"})
    light_platform.sql("UPDATE billing_plans SET plan_id = 'golden'")
    insert(light_platform, MARCH, (ANN, 1, "/chat"))

    with pytest.raises(UsageError, match=r"of plan gold .* billing_plans does not have its plan"):
        light_platform.draft(MARCH)
    assert light_platform.store.versions(MARCH) == []


@pytest.mark.both_databases
@pytest.mark.parametrize(
    ("columns", "told"),
    [
        (
            "model text, unit text, unit_price_cents real",
            r"rate_cards\.unit_price_cents has the type .* exactly",
        ),
        ("model text", r"The table rate_cards in .* has no column unit, unit_price_cents"),
    ],
)
def test_a_table_of_cards_that_cannot_be_exact_is_refused(
    platform: SmallPlatform, columns: str, told: str
) -> None:
    platform.sql(f"CREATE TABLE rate_cards ({columns})")

    with pytest.raises(UsageError, match=told):
        platform.draft(MARCH)


@pytest.mark.both_databases
def test_a_table_without_a_card_for_the_month_leaves_everything_as_it_was(platform: SmallPlatform) -> None:
    platform.accounts(ANN)
    cards(platform, {"valid_from": "2025-03-02", "unit_price_cents": 99})
    insert(platform, MARCH, (ANN, 7, "/a"))

    platform.bill(MARCH)

    frozen = platform.store.latest(MARCH)
    assert frozen is not None
    assert sorted(each.name for each in frozen.directory.iterdir()) == [
        *("manifest.json", "rows.parquet", "user_usage.parquet", "user_usage.sha256")
    ]
    manifest = json.loads((frozen.directory / "manifest.json").read_text())
    assert manifest["format_version"] == 1
    assert not {"rates", "items_by"} & manifest.keys()
    assert platform.lines(MARCH, ANN) == [("usage", 7)]


@pytest.mark.both_databases
def test_a_quantity_that_is_missing_or_not_exact_is_named(platform: SmallPlatform) -> None:
    cards(platform, {"unit": "quantity"}, quantity=True)
    insert(platform, MARCH, (ANN, 1, "/chat", 5), (ANN, 1, "/chat", None))
    with pytest.raises(
        UsageError, match=r"1 calls of user ann-0001 and item other have no quantity, which rate_cards"
    ):
        platform.draft(MARCH)

    wrong = "0.5" if platform.url.startswith("sqlite") else "0.1234567891"
    platform.sql(f"UPDATE usage_counters SET quantity = {wrong} WHERE quantity IS NULL")
    with pytest.raises(
        UsageError, match=rf"quantities in 2025-03 that cannot be priced exactly: id 2: {wrong}"
    ):
        platform.draft(MARCH)


def test_a_price_that_is_wrong_by_a_cent_is_found(
    light_platform: SmallPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = light_platform
    platform.accounts(ANN, BOB)
    cards(platform, {"unit_price_cents": 5})
    monkeypatch.setattr(
        "spell_billing.usage.rate_cards.rated_cents", lambda _, units: units * 5 + units * units
    )
    insert(platform, MARCH, (ANN, 1, "/a"), (BOB, 1, "/a"))
    platform.bill(MARCH)
    insert(platform, MARCH, (BOB, 1, "/a"))
    insert(platform, APRIL, (BOB, 1, "/a"))
    platform.bill(APRIL)

    assert platform.findings(MARCH) == [
        (ANN, "usage_differs"),
        (BOB, "late_usage_differs"),
        (BOB, "usage_differs"),
        ("every user", "usage_differs"),
    ]


def test_cards_and_prices_that_were_altered_are_not_sent(light_platform: SmallPlatform) -> None:
    platform = light_platform
    platform.accounts(ANN)
    cards(platform, {"unit_price_cents": 5})
    insert(platform, MARCH, (ANN, 1, "/chat"))
    platform.draft(MARCH)
    frozen = platform.store.latest(MARCH)
    assert frozen is not None
    assert charged_totals(frozen).cost_cents == 5
    # A program of before would charge the stored cost: it reads format 1 alone.
    assert frozen.manifest.format_version == 2
    platform.sql("UPDATE ledger_invoices SET usage_cents = '4'")
    with pytest.raises(
        IntegrityError, match="the drafts hold 1 calls and 4 cents, the frozen usage 1 calls and 5"
    ):
        platform.send(MARCH)

    (frozen.directory / "rate_cards.parquet").write_bytes(b"")

    with pytest.raises(IntegrityError, match=r"rate_cards\.parquet is not what was frozen"):
        platform.send(MARCH)
