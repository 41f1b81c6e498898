"""Late usage of months with rate cards: tiers come out as if every call had come on time."""

from decimal import Decimal
from pathlib import Path
from random import Random

import pyarrow.parquet as pq
import pytest

from spell_billing.core.money import round_half_up
from spell_billing.usage import late
from spell_billing.usage.contract import SourceRules
from spell_billing.usage.disk import finished_file
from spell_billing.usage.frozen import FrozenFile
from spell_billing_tests.proof.leavers import ANN, BOB, moved
from spell_billing_tests.proof.priced import BY_ENDPOINT, CHAT, CHEAP, DEAR, cards, insert
from spell_billing_tests.proof.small_platform import APRIL, JUNE, MARCH, MAY, SmallPlatform


@pytest.mark.both_databases
def test_late_calls_come_out_of_the_tiers_as_if_they_had_been_on_time(platform: SmallPlatform) -> None:
    platform.rules = BY_ENDPOINT
    platform.accounts(ANN, BOB)
    cards(platform, *CHAT)
    insert(platform, MARCH, *[(ANN, 1, "/chat")] * 2, (ANN, 7, "/embed"), (BOB, 1, "/chat"))
    platform.bill(MARCH)
    assert platform.bill_of(MARCH, ANN).total_cents == 27

    # Cards that change afterwards change nothing of March.
    platform.sql("UPDATE rate_cards SET unit_price_cents = '1000'")
    insert(platform, MARCH, *[(ANN, 1, "/chat")] * 3, (ANN, 5, "/embed"))
    insert(platform, APRIL, (BOB, 4, "/embed"))
    platform.bill(APRIL)
    # Five calls are 3 x 10 + 2 x 2.5, two were 20; and 5 cents as they were stored.
    assert platform.lines(APRIL, ANN) == [("late_usage", 20)]

    # More comes, and some goes, while the setting is taken back and the cards are gone.
    platform.rules = SourceRules()
    platform.sql(
        "DROP TABLE rate_cards", f"DELETE FROM usage_counters WHERE user_id = '{BOB}' AND endpoint = '/chat'"
    )
    insert(platform, MARCH, *[(ANN, 1, "/chat")] * 4)
    insert(platform, MAY, (BOB, 40, "/embed"))
    platform.bill(MAY)
    assert platform.lines(MAY, ANN) == [("late_usage", 10)]
    assert platform.lines(MAY, BOB) == [("usage", 40), ("late_usage", -10)]

    # Nothing of it comes twice.
    insert(platform, JUNE, (ANN, 1, "/chat"))
    platform.bill(JUNE)
    assert platform.lines(JUNE, ANN) == [("usage", 1)]
    for month in (MARCH, APRIL, MAY, JUNE):
        platform.must_agree(month)


@pytest.mark.both_databases
def test_calls_of_who_had_none_on_time_are_priced_by_the_plan_of_now_and_a_new_id_changes_nothing(
    platform: SmallPlatform,
) -> None:
    platform.rules = BY_ENDPOINT
    platform.accounts(ANN, plan_id="pro")
    cards(platform, {"plan_id": "pro", "item": "/chat", "unit_price_cents": "50"})
    insert(platform, MARCH, *[(ANN, 0, "/chat")] * 20)
    platform.bill(MARCH)
    assert platform.lines(MARCH, ANN) == [("usage", 1_000)]

    platform.accounts(BOB, "cem", plan_id="pro")
    platform.sql(f"UPDATE usage_counters SET user_id = '{BOB}'")
    moved(platform)
    insert(platform, MARCH, *[("cem", 0, "/chat")] * 3)
    insert(platform, APRIL, (BOB, 0, "/chat"))
    platform.bill(APRIL)

    assert sum(cents for _, cents in platform.lines(APRIL, BOB)) == 50
    assert platform.lines(APRIL, "cem") == [("late_usage", 150)]
    insert(platform, MARCH, ("cem", 0, "/chat"), (BOB, 0, "/chat"))
    insert(platform, MAY, (BOB, 0, "/chat"))
    platform.bill(MAY)
    assert platform.lines(MAY, "cem") == [("late_usage", 50)]
    assert sum(cents for _, cents in platform.lines(MAY, BOB)) == 100
    for month in (MARCH, APRIL, MAY):
        platform.must_agree(month)


@pytest.mark.both_databases
def test_a_quantity_is_priced_in_packages_and_what_changes_no_price_counts_for_the_next(
    platform: SmallPlatform,
) -> None:
    platform.accounts(ANN, BOB)
    # Without LINE_ITEMS_BY all calls are one item, and one line.
    cards(
        platform,
        {"model": "package", "unit": "quantity", "unit_price_cents": "12.5", "package_size": 100},
        quantity=True,
    )
    insert(platform, MARCH, (ANN, 0, "/a", 150), (ANN, 0, "/b", 20), (BOB, 0, "/a", 1))
    platform.bill(MARCH, verify=True)
    assert platform.lines(MARCH, ANN) == [("usage", 25)]

    insert(platform, MARCH, (ANN, 0, "/a", 20))
    insert(platform, APRIL, (ANN, 0, "/a", 0))
    platform.bill(APRIL)
    # 190 are two packages as 170 were: a line that charges nothing.
    assert platform.lines(APRIL, ANN) == [("usage", 0), ("late_usage", 0)]

    # One row is corrected: no call more, 15 units, and so a third package.
    platform.sql("UPDATE usage_counters SET quantity = 35 WHERE quantity = 20 AND endpoint = '/b'")
    insert(platform, MAY, (ANN, 0, "/a", 1))
    platform.bill(MAY)
    assert platform.lines(MAY, ANN) == [("usage", 13), ("late_usage", 13)]
    for month in (MARCH, APRIL, MAY):
        platform.must_agree(month)


def test_who_waits_for_a_bill_is_priced_with_all_that_came_since(platform: SmallPlatform) -> None:
    platform.rules = BY_ENDPOINT
    cards(platform, *CHAT)
    platform.accounts(BOB)
    # The other user's invoice pins the month.
    insert(platform, MARCH, *[(ANN, 1, "/chat")] * 2, (BOB, 1, "/b"))
    platform.bill(MARCH)
    platform.accounts(ANN)
    insert(platform, MARCH, *[(ANN, 1, "/chat")] * 2)

    platform.bill(MARCH)

    assert platform.lines(MARCH, ANN) == [("usage", 20), ("late_usage", 13)]
    # What comes still later goes on from there: 35 in all.
    insert(platform, MARCH, (ANN, 1, "/chat"))
    insert(platform, APRIL, (BOB, 1, "/b"))
    platform.bill(APRIL)
    assert platform.lines(APRIL, ANN) == [("late_usage", 2)]
    for month in (MARCH, APRIL):
        platform.must_agree(month)
    assert platform.explain(MARCH, ANN)["usage"]["items"] == [
        {
            "item": "/chat",
            "calls": 2,
            "usage_cents": 20,
            "quantity": 0,
            "stored_cents": 2,
            "card": {
                "model": "graduated",
                "unit": "call",
                "package_size": None,
                "tiers": [
                    {"up_to": "3", "unit_price_cents": "10"},
                    {"up_to": None, "unit_price_cents": "2.5"},
                ],
            },
        }
    ]


@pytest.mark.parametrize(("model", "seed"), [("graduated", 0), ("volume", 1)])
def test_a_month_costs_the_same_however_late_its_calls_come_and_go(
    light_platform: SmallPlatform, model: str, seed: int
) -> None:
    platform, chance = light_platform, Random(seed)  # noqa: S311 - the same month each time
    platform.rules = BY_ENDPOINT
    platform.accounts(ANN, BOB)
    tiers = [(3, "7.3"), (8, "2.25"), (None, "0.125")]
    cards(
        platform,
        *(
            {"item": "/a", "model": model, "unit": "quantity", "up_to": end, "unit_price_cents": price}
            for end, price in tiers
        ),
        *({"model": model, "up_to": end, "unit_price_cents": price} for end, price in tiers),
        quantity=True,
    )
    for month in (MARCH, APRIL, MAY):
        insert(
            platform,
            MARCH,
            *(
                (chance.choice([ANN, BOB]), 1, chance.choice(["/a", "/b", None]), chance.randrange(4))
                for _ in range(chance.randrange(1, 9))
            ),
        )
        platform.sql(
            f"DELETE FROM usage_counters WHERE id % 5 = {chance.randrange(5)} AND created_at < '2025-04'"
        )
        platform.bill(month)
        platform.must_agree(month)

    price = {"graduated": _graduated, "volume": _volume}[model]
    for user in (ANN, BOB):
        connection = platform.source.connect()
        counts = connection.execute(
            "SELECT coalesce(endpoint, 'other'), count(*), sum(quantity) FROM usage_counters "
            f"WHERE user_id = '{user}' GROUP BY 1"
        ).fetchall()
        connection.close()
        expected = sum(
            (price(Decimal(quantity if item == "/a" else calls), tiers) for item, calls, quantity in counts),
            Decimal(0),
        )
        bills = [bill for month in (MARCH, APRIL, MAY) for bill in platform.generations(month, user)]
        lines = [line for bill in bills for line in bill.parsed_lines if line.kind != "credit"]
        assert sum(Decimal(line.usage_cents) for line in lines) == expected
        assert sum(line.amount_cents for line in lines) == round_half_up(expected)
    platform.must_agree(MARCH)


def _graduated(units: Decimal, tiers: list[tuple[int | None, str]]) -> Decimal:
    prices = [next(price for end, price in tiers if end is None or unit < end) for unit in range(int(units))]
    return sum(map(Decimal, prices), Decimal(0))


def _volume(units: Decimal, tiers: list[tuple[int | None, str]]) -> Decimal:
    return units * Decimal(next(price for end, price in tiers if end is None or units <= end))


def test_a_priced_row_that_cannot_be_billed_any_more_counts_as_it_was(light_platform: SmallPlatform) -> None:
    platform = light_platform
    platform.rules = BY_ENDPOINT
    platform.accounts(ANN)
    cards(platform, *CHAT)
    insert(platform, MARCH, *[(ANN, 1, "/chat")] * 4)
    platform.bill(MARCH)
    platform.sql("UPDATE usage_counters SET cost_cents = 'gone' WHERE id = 1")
    insert(platform, MARCH, (ANN, 1, "/chat"))
    insert(platform, APRIL, (ANN, 1, "/b"))

    platform.bill(APRIL)

    assert platform.lines(APRIL, ANN) == [("usage", 1), ("late_usage", 2)]
    for month in (MARCH, APRIL):
        platform.must_agree(month)


@pytest.mark.parametrize(("calls", "back"), [(0, -600), (3, -300), (8, 200)])
def test_what_came_late_first_keeps_the_plan_by_which_it_was_priced(
    platform: SmallPlatform, calls: int, back: int
) -> None:
    platform.rules = BY_ENDPOINT
    platform.accounts(BOB)
    cards(platform, DEAR, CHEAP)
    insert(platform, MARCH, (BOB, 0, "/chat"))
    platform.bill(MARCH)
    platform.accounts(ANN, plan_id="dear")
    insert(platform, MARCH, *[(ANN, 0, "/chat")] * 6)
    insert(platform, APRIL, (BOB, 0, "/chat"))
    platform.bill(APRIL)
    assert platform.lines(APRIL, ANN) == [("late_usage", 600)]

    platform.sql(
        f"UPDATE billing_accounts SET plan_id = 'cheap' WHERE user_id = '{ANN}'",
        f"DELETE FROM usage_counters WHERE user_id = '{ANN}'",
    )
    insert(platform, MARCH, *[(ANN, 0, "/chat")] * calls)
    insert(platform, MAY, *[(ANN, 0, "/chat")] * 2_000)
    platform.bill(MAY)

    assert platform.lines(MAY, ANN) == [("usage", 2_000), ("late_usage", back)]
    for month in (MARCH, APRIL, MAY):
        platform.must_agree(month)


def without_plans(path: Path, rows: int) -> FrozenFile:
    """Finish a file as versions did that kept no plan of late rows."""
    pq.write_table(pq.read_table(path).drop_columns("plan_id"), path)
    return finished_file(path, rows)


def test_late_rows_of_before_their_plan_was_kept_are_priced_by_the_plan_of_now(
    platform: SmallPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.rules = BY_ENDPOINT
    platform.accounts(BOB)
    cards(platform, {"plan_id": "pro", "item": "/chat", "unit_price_cents": "100"})
    insert(platform, MARCH, (BOB, 0, "/chat"))
    platform.bill(MARCH)
    platform.accounts(ANN, plan_id="pro")
    insert(platform, MARCH, *[(ANN, 0, "/chat")] * 6)
    insert(platform, APRIL, (BOB, 0, "/chat"))
    monkeypatch.setattr(late, "finished_file", without_plans)
    platform.bill(APRIL)
    monkeypatch.undo()
    insert(platform, MARCH, (ANN, 0, "/chat"))
    platform.bill(MAY)

    assert platform.lines(MAY, ANN) == [("late_usage", 100)]
    for month in (MARCH, APRIL, MAY):
        platform.must_agree(month)
