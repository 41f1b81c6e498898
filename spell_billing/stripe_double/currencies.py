"""Stripe's rules per currency: https://docs.stripe.com/currencies."""

MINIMUM_CHARGE_CENTS = {
    **dict.fromkeys(("usd", "aud", "brl", "cad", "chf", "eur", "inr", "nzd", "sgd"), 50),
    **dict.fromkeys(("aed", "myr", "pln", "ron"), 200),
    **dict.fromkeys(("nok", "sek"), 300),
    "bgn": 100,
    "czk": 1500,
    "dkk": 250,
    "gbp": 30,
    "hkd": 400,
    "huf": 17500,
    "jpy": 50,
    "mxn": 1000,
    "thb": 1000,
}
"""Smallest charge by currency, in minor units; a currency that is not listed has 50."""

_STEPS_CENTS = {
    **dict.fromkeys(("bhd", "jod", "kwd", "omr", "tnd"), 10),
    **dict.fromkeys(("isk", "ugx"), 100),
}


def largest_cents(currency: str) -> int:
    """Return the largest amount in minor units: eight digits, twelve for the Indonesian rupiah."""
    return 999_999_999_999 if currency == "idr" else 99_999_999


def step_cents(currency: str) -> int:
    """Return what a charge must be a multiple of.

    Three-decimal currencies end in 0; ISK and UGX have two decimals in the API and none in money.
    """
    return _STEPS_CENTS.get(currency, 1)


def is_chargeable(due_cents: int, currency: str) -> bool:
    """Return whether an amount reaches the currency's minimum charge."""
    return due_cents > 0 and due_cents >= MINIMUM_CHARGE_CENTS.get(currency, 50)
