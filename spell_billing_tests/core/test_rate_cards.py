"""Rate cards: exact prices, tiers that meet where they should, and unusable cards refused by name."""

import re
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from spell_billing.core.errors import UsageError
from spell_billing.core.month import Month
from spell_billing.core.rate_cards import (
    CardRow,
    Model,
    RateCard,
    Tier,
    Unit,
    card_for,
    cards_of,
    rated_cents,
    read_cards,
    require_packages,
)

OCTOBER = Month(2026, 10)
ROW = CardRow("pro", "/v1/chat", "graduated", "call", None, "0.5", None, "2026-01-01")
NUMBERS = st.decimals(Decimal("0.000000001"), Decimal(10**6), places=9)
PRICES = st.decimals(Decimal(0), Decimal(10**4), places=9)
UNITS = st.decimals(Decimal(-(10**9)), Decimal(10**9), places=9)


@st.composite
def cards(draw: st.DrawFn, models: tuple[Model, ...] = tuple(Model)) -> RateCard:
    model = draw(st.sampled_from(models))
    tiered = model in {Model.GRADUATED, Model.VOLUME}
    ends = sorted(draw(st.sets(NUMBERS, max_size=4))) if tiered else []
    tiers = tuple(Tier(end, draw(PRICES)) for end in [*ends, None])
    return RateCard(model, Unit.QUANTITY, tiers, draw(NUMBERS))


def unit_by_unit(card: RateCard, units: Decimal) -> Fraction:
    """Price by the words of the documentation, in fractions."""
    number, price = abs(Fraction(units)), [Fraction(each.unit_price_cents) for each in card.tiers]
    ends = [Fraction(10**12 if each.up_to is None else each.up_to) for each in card.tiers]
    if card.model is Model.PACKAGE:
        found = -((-number) // Fraction(card.package_size)) * price[0]
    elif card.model is Model.GRADUATED:
        starts = [Fraction(0), *ends[:-1]]
        found = sum(
            (
                max(Fraction(0), min(number, end) - start) * each
                for start, end, each in zip(starts, ends, price, strict=True)
            ),
            Fraction(0),
        )
    else:
        found = number * next(each for end, each in zip(ends, price, strict=True) if number <= end)
    return found if units >= 0 else -found


@given(card=cards(), units=UNITS)
def test_a_price_is_exact_and_as_documented(card: RateCard, units: Decimal) -> None:
    assert Fraction(rated_cents(card, units)) == unit_by_unit(card, units)


@given(card=cards((Model.FLAT, Model.GRADUATED, Model.PACKAGE)), one=UNITS, other=UNITS)
def test_more_never_costs_less_but_where_the_whole_volume_gets_another_price(
    card: RateCard, one: Decimal, other: Decimal
) -> None:
    assert rated_cents(card, min(one, other)) <= rated_cents(card, max(one, other))


def test_the_end_of_a_tier_belongs_to_it() -> None:
    tiers = (Tier(Decimal(10), Decimal(5)), Tier(Decimal(20), Decimal(3)), Tier(None, Decimal("0.1")))
    prices = {
        model: [
            str(rated_cents(RateCard(model, Unit.CALL, tiers), Decimal(units)))
            for units in (0, 10, 11, 20, 21, -11)
        ]
        for model in (Model.GRADUATED, Model.VOLUME)
    }
    package = RateCard(Model.PACKAGE, Unit.CALL, (Tier(None, Decimal(7)),), Decimal(100))

    assert prices == {
        Model.GRADUATED: ["0", "50", "53", "80", "80.1", "-53"],
        Model.VOLUME: ["0", "50", "33", "60", "2.1", "-33"],
    }
    assert [rated_cents(package, Decimal(units)) for units in (0, 1, 100, 101)] == [0, 7, 7, 14]


@given(seed=st.randoms(use_true_random=False))
def test_the_order_of_the_rows_makes_no_difference(seed: object) -> None:
    rows = [
        *(structs.replace(ROW, up_to=end) for end in ("9", "10", "100.5", None)),
        *(structs.replace(ROW, item=None, model="volume", up_to=end) for end in ("9", "10", None)),
        structs.replace(ROW, plan_id=None, model="package", package_size="10"),
        structs.replace(ROW, valid_from="2025-01-01", unit_price_cents="9"),
        structs.replace(ROW, valid_from="2026-10-02", unit_price_cents="8"),
        structs.replace(ROW, valid_from=None, unit_price_cents="7"),
    ]
    expected = read_cards(cards_of(rows, OCTOBER))
    seed.shuffle(rows)  # type: ignore[attr-defined]

    assert read_cards(cards_of(rows, OCTOBER)) == expected
    assert len(expected["pro", "/v1/chat"].tiers) == 4


@pytest.mark.parametrize("text", ["0.5", "0.50", "0.5000000000000", "-0", "0.", "100", "0"])
def test_needless_zeros_of_a_price_are_no_decimal_places(text: str) -> None:
    (card,) = read_cards([structs.replace(ROW, unit_price_cents=text)]).values()

    price = card.tiers[0].unit_price_cents
    assert price == Decimal(text)
    assert -int(price.as_tuple().exponent) <= 1


@pytest.mark.parametrize(
    ("month", "cents"), [("2025-12", "7"), ("2026-01", "0.5"), ("2026-02", "0.5"), ("2026-03", "8")]
)
def test_the_newest_card_that_is_valid_at_the_start_of_the_month_counts(month: str, cents: str) -> None:
    rows = [
        structs.replace(ROW, valid_from=None, unit_price_cents="7"),
        ROW,
        structs.replace(ROW, valid_from="2026-02-02 00:00:00", unit_price_cents="8"),
    ]

    (card,) = read_cards(cards_of(rows, Month.parse(month))).values()

    assert card.tiers == (Tier(None, Decimal(cents)),)


def test_the_most_specific_card_wins() -> None:
    places = [("pro", "/a"), (None, "/a"), ("pro", None), (None, None)]
    rows = [structs.replace(ROW, plan_id=plan, item=item) for plan, item in places]
    found = read_cards(rows)

    for place in places:
        assert card_for(found, "pro", "/a") is found[place]
        del found[place]
    assert card_for(found, "pro", "/a") is None


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ([{"model": "stairs"}], "model is 'stairs'. Write flat or graduated or volume or package."),
        ([{"model": None}], "model is None"),
        ([{"unit": "calls"}], "unit is 'calls'. Write call or quantity."),
        ([{"unit_price_cents": "-0.1"}], "unit_price_cents is '-0.1'. Write a price of zero or more."),
        *(
            (
                [{"unit_price_cents": wrong}],
                f"unit_price_cents is {wrong!r}. Write a number with up to 9 decimal",
            )
            for wrong in (None, "NaN", "1e5", "1,5", "0.1234567891", "1" * 19, "1.2.3", "²")
        ),
        ([{"up_to": "10"}], "its last tier is missing"),
        ([{"up_to": "0"}, {}], "up_to is '0'. Write a number above zero"),
        ([{"up_to": "10"}, {"up_to": "10.0"}, {}], "two tiers overlap: both end at 10"),
        ([{}, {"unit_price_cents": "9"}], "two of its rows have no up_to"),
        ([{"up_to": "5"}, {"model": "volume"}], "there are two with that date"),
        ([{"model": "flat", "up_to": "5"}, {"model": "flat"}], "it is flat and has tiers"),
        ([{"model": "package"}], "package_size is None"),
        ([{"model": "package", "package_size": "0"}], "package_size is '0'"),
        ([{"valid_from": "soon"}], "valid_from is 'soon'. Write a date"),
        ([{"valid_from": "2026-01-011"}], "valid_from is '2026-01-011'. Write a date"),
    ],
)
def test_a_card_that_cannot_be_used_is_refused_by_name(
    changed: list[dict[str, str | None]], told: str
) -> None:
    rows = [structs.replace(ROW, **each) for each in changed]

    with pytest.raises(UsageError) as refused:
        read_cards(cards_of(rows, OCTOBER))

    assert str(refused.value).startswith("The rate card of plan pro and item /v1/chat from ")
    assert told in str(refused.value)


def test_a_package_size_that_would_be_charged_for_each_unit_is_refused() -> None:
    idle = structs.replace(ROW, model="flat", package_size="500")
    wrong = structs.replace(idle, package_size="many")

    with pytest.raises(
        UsageError, match=r"item /v1/chat from .* it is flat, and package_size is '500'\. Write"
    ):
        require_packages([ROW, idle])
    with pytest.raises(UsageError, match=r"package_size is 'many'"):
        require_packages([wrong])
    require_packages(structs.replace(ROW, package_size=size) for size in (None, "0", "1", "1.00"))
    require_packages([structs.replace(idle, model="package")])


def test_the_worked_example_of_the_documentation_is_what_is_charged() -> None:
    text = (Path(__file__).parents[2] / "docs" / "pricing.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (flat|graduated|volume|package) \| (.*) \| (\d+) \|$", text, re.MULTILINE)
    assert len(rows) == len(Model)
    for model, tiers, cents in rows:
        parts = [
            re.fullmatch(r"([\d.]+)(?: up to (\d+)| for each (\d+))?", part) for part in tiers.split(", ")
        ]
        cards = read_cards(
            CardRow(None, None, model, "call", part[2], part[1], part[3], None) for part in parts if part
        )
        assert rated_cents(cards[None, None], Decimal(1250)) == Decimal(cents)
