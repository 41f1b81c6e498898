"""Money: exact decimals on the way in, integer minor units on an invoice, one rounding function."""

from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_UP, Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow
from fractions import Fraction
from functools import lru_cache

import orjson

MAX_AMOUNT_CENTS = 99_999_999
"""Stripe's largest amount in minor units: eight digits, but see `max_amount_cents`."""

_MAX_AMOUNTS_CENTS = {"idr": 999_999_999_999}
_THREE_DECIMALS = ("bhd", "jod", "kwd", "omr", "tnd")
_DECIMAL_PLACES = {
    **dict.fromkeys(("bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf"), 0),
    **dict.fromkeys(("vnd", "vuv", "xaf", "xof", "xpf"), 0),
    **dict.fromkeys(_THREE_DECIMALS, 3),
}
"""Zero- and three-decimal currencies of Stripe's API; every other has two decimals there, ISK and UGX too."""
_STEPS_CENTS = {**dict.fromkeys(_THREE_DECIMALS, 10), "isk": 100, "ugx": 100}

EXACT = Context(prec=1_000, traps=[Inexact, InvalidOperation, DivisionByZero, Overflow])
"""Its digits are far beyond any sum of amounts; a longer one is refused (`decimal.Inexact`), not rounded."""
_ZERO = Decimal(0)

_SYMBOLS = {"usd": "$", "eur": "€", "gbp": "£", "jpy": "¥"}


def round_half_up(amount: Decimal) -> int:
    """Round an exact amount to whole minor units; a half goes away from zero.

    The only rounding in the product, applied once per invoice line.
    """
    return int(amount.to_integral_value(ROUND_HALF_UP))


def share_of(cents: int, share: Fraction) -> int:
    """Return a share of an amount in whole minor units; a half goes away from zero, as for any amount."""
    numerator, denominator = share.numerator, share.denominator
    whole = (2 * abs(cents) * numerator + denominator) // (2 * denominator)
    return -whole if cents < 0 else whole


def max_amount_cents(currency: str) -> int:
    """Return Stripe's largest amount in minor units: eight digits, twelve for the Indonesian rupiah.

    https://docs.stripe.com/currencies
    """
    return _MAX_AMOUNTS_CENTS.get(currency, MAX_AMOUNT_CENTS)


def step_cents(currency: str) -> int:
    """Return what Stripe requires a charge to be a multiple of, in minor units; 1 for most currencies.

    Amounts in three-decimal currencies end in 0; ISK and UGX have two decimals in the API and none in money.
    https://docs.stripe.com/currencies
    """
    return _STEPS_CENTS.get(currency, 1)


def exact_sum(*amounts: Decimal) -> Decimal:
    """Add amounts without losing a digit: Python's decimals round a sum to 28 digits by default."""
    total = _ZERO
    for amount in amounts:
        total = EXACT.add(total, amount)
    return total


@lru_cache(maxsize=1_000)
def is_currency(text: str) -> bool:
    """Return whether the text has the form of a currency as Stripe takes it: three lower-case letters."""
    return len(text) == 3 and text.isascii() and text.isalpha() and text.islower()  # noqa: PLR2004 - ISO 4217


def format_money(amount_cents: int, currency: str = "usd", *, grouping: bool = False) -> str:
    """Write an amount for people: `$12.34`, `-$0.05`, `12.34 CHF`.

    `grouping` separates thousands with a comma, as in summaries; invoice texts have none.
    """
    before, after, fractions = _style(currency)
    if amount_cents < 0:
        before, amount_cents = f"-{before}", -amount_cents
    units, rest = divmod(amount_cents, len(fractions))
    whole = f"{units:,}" if grouping else units
    return f"{before}{whole}{fractions[rest]}{after}"


def cents_of(text: str, currency: str) -> int:
    """Return an amount as a person writes it, as `2.50`, in minor units of the currency.

    Raises:
        ValueError: when it has a fraction of a minor unit.
    """
    cents = Decimal(text).scaleb(_DECIMAL_PLACES.get(currency, 2))
    if cents != cents.to_integral_value():
        raise ValueError(f"{text} has fractions of a minor unit of {currency.upper()}")
    return int(cents)


def format_amounts(by_currency: Mapping[str, int]) -> str:
    """Write sums for people, one for each currency: `¥500 and $12.34`. No two currencies are added."""
    *others, last = [
        format_money(cents, name, grouping=True) for name, cents in sorted(by_currency.items())
    ] or [format_money(0)]
    return f"{', '.join(others)} and {last}" if others else last


@lru_cache(maxsize=1_000)
def _style(currency: str) -> tuple[str, str, Sequence[str]]:
    """Return what stands before an amount and after it, and each number of minor units as a fraction."""
    places = _DECIMAL_PLACES.get(currency, 2)
    symbol = _SYMBOLS.get(currency, "")
    fractions = [f".{rest:0{places}}" for rest in range(10**places)] if places else [""]
    return symbol, "" if symbol else f" {currency.upper()}", fractions


def plain(amount: Decimal) -> str:
    """Write an exact decimal without an exponent or needless zeros: equal amounts give equal texts."""
    if not amount:
        return "0"
    text = str(amount)
    if "E" in text:
        text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def exact_number(value: object) -> orjson.Fragment:
    """Write a decimal as a JSON number with all its digits: orjson's `default`."""
    if isinstance(value, Decimal):
        return orjson.Fragment(plain(value))
    raise TypeError
