"""Where the server is and what opens it: an address that keeps the secret secret, and the secret itself."""

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from pydantic import SecretStr

from spell_billing.core.errors import SettingsError


def server_address(text: str) -> str:
    """Accept a server's address: https, or plain http to this machine. No slash ends what comes back.

    Raises:
        SettingsError: when it is malformed, or would send the secret in the clear.
    """
    try:
        parts = urlsplit(text.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    extras = parts.username or parts.password or parts.query or parts.fragment or parts.path.strip("/")
    if not host or port == 0 or extras or parts.scheme not in {"http", "https"}:
        # Not repeated: whatever was pasted here may hold a password.
        raise SettingsError(
            "That is not the address of a server.",
            remedy="Write it as https://billing.example.com, with no login and no path in it.",
        )
    if parts.scheme == "http" and not is_loopback(host):
        raise SettingsError(
            f"http://{host} would send ADMIN_SECRET unencrypted.",
            remedy="Use https; plain http is for 127.0.0.1 and localhost only.",
        )
    return f"{parts.scheme}://{parts.netloc}"


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is of this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def secret_from(environment: Mapping[str, str]) -> SecretStr:
    """Read `ADMIN_SECRET`. It is taken from nowhere else: arguments are seen by everybody on a machine.

    Raises:
        SettingsError: when it is missing, or cannot be sent in a header.
    """
    text = environment.get("ADMIN_SECRET", "").strip()
    if not text:
        raise SettingsError(
            "ADMIN_SECRET is not set.", remedy="Set it in the environment to the secret of the server."
        )
    if not text.isascii() or not text.isprintable() or " " in text:
        raise SettingsError(
            "ADMIN_SECRET has a character that no HTTP header carries safely.",
            remedy="Set it to exactly what the server was started with.",
        )
    return SecretStr(text)
