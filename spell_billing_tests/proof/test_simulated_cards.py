"""Other rate cards in a simulation: an independent sum of what each user's calls would cost by them."""

import json
import re
from pathlib import Path

import pytest

from spell_billing.core.errors import IntegrityError, UsageError
from spell_billing_tests.proof.priced import BY_ENDPOINT, CHAT, cards, insert
from spell_billing_tests.proof.small_platform import MARCH, SmallPlatform
from spell_billing_tests.proof.test_simulate import DOCS, by, everything, run, simulated

ADA, BOB = "ada", "bob"


@pytest.fixture
def priced(platform: SmallPlatform) -> SmallPlatform:
    """Give a month with cards: four calls of /chat and one of /files of Ada, who is on Pro; one of Bob."""
    return with_cards(platform)


@pytest.fixture
def light_priced(light_platform: SmallPlatform) -> SmallPlatform:
    """Give the same on SQLite."""
    return with_cards(light_platform)


def with_cards(platform: SmallPlatform) -> SmallPlatform:
    platform.rules = BY_ENDPOINT
    cards(
        platform,
        *CHAT,
        {"item": "/chat", "plan_id": "pro", "unit_price_cents": "8"},
        {"item": "/chat", "plan_id": "max", "unit_price_cents": "5"},
        quantity=True,
    )
    platform.accounts(ADA, plan_id="pro")
    platform.accounts(BOB)
    insert(platform, MARCH, *[(ADA, 1, "/chat", 20)] * 4, (ADA, 7, "/files", 30), (BOB, 3, "/chat", 40))
    platform.bill(MARCH)
    return platform


@pytest.mark.both_databases
def test_other_cards_price_the_frozen_calls_and_nothing_is_written(
    priced: SmallPlatform, tmp_path: Path
) -> None:
    kept = everything(priced)
    assert [priced.bill_of(MARCH, user).total_cents for user in (ADA, BOB)] == [4 * 8 + 7, 10]
    # /chat: 1.5 cents each; on Pro a package of three for 20; /files: stored, as no card prices it.
    path = tmp_path / "new.yaml"
    (of_docs,) = re.findall(r"```yaml\n(rate_cards:\n.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    path.write_text(f"{of_docs}  - {{item: /caht, model: flat, unit: call, unit_price_cents: 9}}\n")
    done = run(priced, path, "--json", last="2025-03")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert {each["user_id"]: each["by_cents"] for each in found["largest"]} == {
        ADA: (2 * 20 + 7) - (4 * 8 + 7),
        BOB: 2 - 10,
    }
    assert found["unused_cards"] == ["The rate card of every plan and item /caht from the beginning"]
    words = run(priced, path, last="2025-03")
    assert "item /caht from the beginning priced nothing" in " ".join(words.stdout.split())
    assert everything(priced) == kept


def test_users_who_move_are_priced_by_the_card_of_their_new_plan(light_priced: SmallPlatform) -> None:
    new = "plans: {max: {}}"
    assert by(simulated(light_priced, f"{new}\nmove: {{pro: max}}", MARCH)) == {ADA: 4 * 5 - 4 * 8}
    assert by(simulated(light_priced, f"{new}\neveryone: max", MARCH)) == {ADA: 4 * 5 - 4 * 8, BOB: 5 - 10}
    assert by(simulated(light_priced, "everyone: pro", MARCH)) == {BOB: 8 - 10}


def test_without_cards_each_call_has_its_stored_cost(light_priced: SmallPlatform) -> None:
    assert by(simulated(light_priced, "rate_cards: []", MARCH)) == {ADA: 4 - 4 * 8, BOB: 3 - 10}


def test_the_same_cards_change_nothing_and_the_level_comes_on_top(light_priced: SmallPlatform) -> None:
    same = """
rate_cards:
  - {item: /chat, model: graduated, unit: call, up_to: 3, unit_price_cents: 10}
  - {item: /chat, model: graduated, unit: call, unit_price_cents: 2.5}
  - {item: /chat, plan_id: pro, model: flat, unit: call, unit_price_cents: 8}
"""
    assert by(simulated(light_priced, same, MARCH)) == {}
    assert by(simulated(light_priced, f"{same}usage_percent: 200", MARCH)) == {ADA: 39, BOB: 10}


def test_a_card_counts_from_its_date(light_priced: SmallPlatform) -> None:
    dated = "rate_cards: [{{model: flat, unit: call, unit_price_cents: 1, valid_from: {}}}]"
    assert by(simulated(light_priced, dated.format("2025-03-01"), MARCH)) == {ADA: 5 - 39, BOB: 1 - 10}
    assert by(simulated(light_priced, dated.format("2025-03-02"), MARCH)) == {ADA: 11 - 39, BOB: 3 - 10}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("rate_cards: [{model: flat, unit: call}]", "unit_price_cents is missing"),
        ("rate_cards: [{model: flt, unit: call, unit_price_cents: 1}]", "new.yaml: .*model is 'flt'"),
        ("rate_cards: [{model: flat, unit: call, unit_price_cents: -1}]", "a price of zero or more|is '-1'"),
        (
            "rate_cards: [{model: graduated, unit: call, unit_price_cents: 1, up_to: 5}]",
            "its last tier is missing",
        ),
        (
            "rate_cards: [{model: flat, unit: call, unit_price_cents: 1, package_size: 5}]",
            "package_size is '5'",
        ),
        (
            "rate_cards: [{plan_id: gold, model: flat, unit: call, unit_price_cents: 1}]",
            "'gold' in rate_cards",
        ),
        (
            "rate_cards: [{model: flat, unit: call, unit_price_cents: 1, valid_from: soon}]",
            "valid_from is 'soon'",
        ),
        (
            "rate_cards: [{model: flat, unit: quantity, unit_price_cents: 1}]",
            "2025-03, which was frozen without quantities",
        ),
        ("rate_cards: [{price: 1}]", "rate_cards.0.price is an unknown key"),
    ],
)
def test_a_card_that_cannot_be_used_is_named(light_priced: SmallPlatform, text: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        simulated(light_priced, text, MARCH)


def test_a_month_frozen_without_items_is_named(light_platform: SmallPlatform) -> None:
    light_platform.accounts(ADA)
    light_platform.calls(MARCH, (ADA, 700), (ADA, 5))
    light_platform.bill(MARCH)
    card = "rate_cards: [{{{}model: flat, unit: call, unit_price_cents: 3}}]"
    with pytest.raises(UsageError, match="2025-03, which was frozen without items"):
        simulated(light_platform, card.format("item: /chat, "), MARCH)
    assert by(simulated(light_platform, card.format(""), MARCH)) == {ADA: 6 - 705}


def test_frozen_rows_that_were_altered_are_not_priced(light_priced: SmallPlatform) -> None:
    (rows,) = (light_priced.store_path / "2025-03").rglob("rows.parquet")
    rows.write_bytes(rows.read_bytes() + b" ")
    with pytest.raises(IntegrityError, match=r"rows\.parquet is not what was frozen"):
        simulated(light_priced, "rate_cards: []", MARCH)
