"""Addresses and keys in settings: what is accepted, and what would give a secret away."""

from urllib.parse import SplitResult, urlsplit

from pydantic import SecretStr

from spell_billing.core.errors import SettingsError

DEFAULT_STRIPE_API_BASE = "https://api.stripe.com"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
"""This machine: what is sent there does not cross a network."""


def check_api_key(text: str) -> SecretStr:
    """Accept a Stripe secret or restricted key.

    Raises:
        SettingsError: for anything else; the text itself is not repeated.
    """
    if not text.startswith(("sk_", "rk_")) or not text.isascii() or not text.isprintable() or " " in text:
        raise SettingsError(
            "STRIPE_API_KEY is not a Stripe secret key.",
            remedy="It starts with sk_live_, sk_test_, rk_live_ or rk_test_; publishable keys cannot bill.",
        )
    return SecretStr(text)


def check_api_base(text: str) -> str:
    """Accept Stripe's address; return it with the scheme in lower case and no slash at the end.

    Raises:
        SettingsError: when the address is malformed or would send the key unencrypted.
    """
    parts = check_address("STRIPE_API_BASE", text, example=DEFAULT_STRIPE_API_BASE, sends="the Stripe key")
    return parts.geturl().rstrip("/")


def check_address(
    setting: str, text: str, *, example: str, sends: str | None, may_have_query: bool = False
) -> SplitResult:
    """Accept a web address without a login or a fragment: https, or plain http to this machine.

    `sends` is what goes there and must be encrypted; without it plain http will do anywhere.

    Raises:
        SettingsError: for anything else, with the setting's name and an example; the text is not repeated.
    """
    try:
        parts = urlsplit(text)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, usable = urlsplit(""), False
    usable = usable and (sends is not None or parts.scheme in {"http", "https"})
    unwanted = parts.username or parts.password or parts.fragment or (parts.query and not may_have_query)
    if not usable or unwanted:
        raise SettingsError(
            f"{setting} is not a web address.", remedy=f"Write it as {example}, with no login in it."
        )
    if sends and parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise SettingsError(
            f"{setting} would send {sends} unencrypted.",
            remedy="Use https; plain http is for 127.0.0.1 and localhost only.",
        )
    return parts
