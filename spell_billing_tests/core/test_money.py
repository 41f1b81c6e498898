"""Rounding, writing and rating of amounts."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spell_billing.core.money import exact_sum, format_money, is_currency, plain, round_half_up
from spell_billing.core.pricing import Rating, rate

EXACT = st.builds(
    lambda digits, places: Decimal(digits).scaleb(-places),
    st.integers(-(10**14), 10**14),
    st.integers(0, 12),
)
LONG = st.builds(
    lambda whole, fraction: Decimal(f"{whole}.{fraction:020d}"),
    st.integers(-(10**18), 10**18),
    st.integers(0, 10**20 - 1),
)


@pytest.mark.parametrize(
    ("amount", "rounded"),
    [
        ("0", 0),
        ("0.4999999999999999999999999999999999", 0),
        ("0.5", 1),
        ("1.5", 2),
        ("2.5", 3),
        ("-0.5", -1),
        ("-0.49", 0),
        ("-2.5", -3),
        ("1234567890123456789012345678901234567890.5", 1234567890123456789012345678901234567891),
        ("1E+3", 1000),
    ],
)
def test_a_half_goes_away_from_zero(amount: str, rounded: int) -> None:
    assert round_half_up(Decimal(amount)) == rounded


@given(amount=EXACT)
def test_rounding_moves_at_most_half_a_cent_and_alike_on_both_sides_of_zero(amount: Decimal) -> None:
    rounded = round_half_up(amount)

    assert abs(Fraction(rounded) - Fraction(amount)) <= Fraction(1, 2)
    assert round_half_up(-amount) == -rounded


@pytest.mark.parametrize(
    ("cents", "currency", "text"),
    [
        (1234, "usd", "$12.34"),
        (-5, "usd", "-$0.05"),
        (0, "usd", "$0.00"),
        (123456789, "usd", "$1234567.89"),
        (1234, "eur", "€12.34"),
        (1234, "gbp", "£12.34"),
        (1234, "jpy", "¥1234"),
        (1234, "krw", "1234 KRW"),
        (-1234, "kwd", "-1.234 KWD"),
        (1234, "chf", "12.34 CHF"),
    ],
)
def test_amounts_are_written_with_the_decimals_of_their_currency(
    cents: int, currency: str, text: str
) -> None:
    assert format_money(cents, currency) == text


def test_thousands_are_separated_on_request_only() -> None:
    assert format_money(123456789, grouping=True) == "$1,234,567.89"
    assert format_money(-1234567, "jpy", grouping=True) == "-¥1,234,567"


@given(cents=st.integers(-(10**12), 10**12), currency=st.sampled_from(["usd", "jpy", "kwd", "chf"]))
def test_a_written_amount_reads_back_as_the_same_minor_units(cents: int, currency: str) -> None:
    places = {"jpy": 0, "kwd": 3}.get(currency, 2)
    number = "".join(letter for letter in format_money(cents, currency) if letter in "-.0123456789")

    assert Decimal(number).scaleb(places) == cents


@given(amount=st.one_of(EXACT, LONG))
def test_plain_text_keeps_every_digit(amount: Decimal) -> None:
    text = plain(amount)

    assert Fraction(text) == Fraction(amount)
    assert "E" not in text
    assert "." not in text or text[-1] not in "0."


@pytest.mark.parametrize(
    ("spellings", "text"),
    [
        (["0", "-0", "0.00", "0E+5", "0E-9"], "0"),
        (["100", "1E+2", "100.00", "1.0E2"], "100"),
        (["-12.5", "-12.50", "-125E-1"], "-12.5"),
        (["0.000001", "1E-6"], "0.000001"),
    ],
)
def test_equal_amounts_are_written_alike(spellings: list[str], text: str) -> None:
    assert {plain(Decimal(spelling)) for spelling in spellings} == {text}


@given(amounts=st.lists(LONG, max_size=20))
def test_sums_keep_every_digit_beyond_what_decimals_keep_by_default(amounts: list[Decimal]) -> None:
    assert Fraction(exact_sum(*amounts)) == sum(map(Fraction, amounts))


@pytest.mark.parametrize("text", ["", "us", "usdd", "USD", "u1d", "üsd", "us "])
def test_only_three_lower_case_letters_are_a_currency(text: str) -> None:
    assert is_currency("usd")
    assert not is_currency(text)


@pytest.mark.parametrize(
    ("usage", "included", "due", "covered"),
    [
        ("1000.5", 0, 1001, 0),
        ("1000.5", 300, 701, 300),
        ("299.5", 300, 0, 300),
        ("299.4", 300, 0, 299),
        ("0", 300, 0, 0),
        ("-10.5", 300, -11, 0),
    ],
)
def test_the_allowance_covers_charges_and_never_grows_a_credit(
    usage: str, included: int, due: int, covered: int
) -> None:
    rated = rate(Decimal(usage), Rating(included))

    assert (rated.due_cents, rated.covered_cents) == (due, covered)


@given(usage=EXACT, included=st.integers(0, 10**7))
def test_due_and_covered_add_up_to_the_rounded_usage(usage: Decimal, included: int) -> None:
    rated = rate(usage, Rating(included))

    assert rated.due_cents + rated.covered_cents == round_half_up(usage)
    assert 0 <= rated.covered_cents <= included
    assert rated.due_cents >= 0 or usage < 0
