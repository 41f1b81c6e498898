"""Addresses and keys in settings: what is accepted, and what would give a secret away."""

from urllib.parse import urlsplit

from pydantic import SecretStr

from spell_billing.core.errors import SettingsError

DEFAULT_STRIPE_API_BASE = "https://api.stripe.com"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


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
    """Accept an https address, or plain http to this machine; the scheme comes back in lower case, no slash.

    Raises:
        SettingsError: when the address is malformed or would send the key in the clear.
    """
    try:
        parts = urlsplit(text)
        host = parts.hostname
        parts.port  # noqa: B018 - reading it checks it
    except ValueError:
        host, parts = None, urlsplit("")
    if not host or parts.username or parts.password or parts.query or parts.fragment:
        raise SettingsError(
            "STRIPE_API_BASE is not an address.",
            remedy="Write it as https://api.stripe.com, or leave it unset.",
        )
    if parts.scheme != "https" and not (parts.scheme == "http" and host in LOOPBACK):
        raise SettingsError(
            f"STRIPE_API_BASE={parts.scheme}://{host} would send the Stripe key unencrypted.",
            remedy="Use https; plain http is for 127.0.0.1 and localhost only.",
        )
    return parts.geturl().rstrip("/")


def check_public_url(text: str) -> str:
    """Accept the root of an https address, or of plain http on this machine; gives it without a slash.

    Raises:
        SettingsError: for anything else.
    """
    try:
        parts = urlsplit(text)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise _no_public_url() from None
    if not usable or parts.username or parts.password or parts.query or parts.fragment:
        raise _no_public_url()
    if parts.path.strip("/"):
        raise SettingsError(
            "SPELL_BILLING_PUBLIC_URL has a path, and the server lies at the root of its host.",
            remedy="Write it as https://billing.example.com.",
        )
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise SettingsError(
            "SPELL_BILLING_PUBLIC_URL would send secrets unencrypted.",
            remedy="Use https; plain http is for 127.0.0.1 and localhost only.",
        )
    return f"{parts.scheme}://{parts.netloc}"


def _no_public_url() -> SettingsError:
    return SettingsError(
        "SPELL_BILLING_PUBLIC_URL is not an address of web pages.",
        remedy="Write it as https://billing.example.com, with no login in it, or leave it unset.",
    )
