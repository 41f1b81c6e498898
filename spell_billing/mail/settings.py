"""Settings of mail to users. A malformed one is an error that names it and the remedy, never its password."""

from dataclasses import dataclass, field
from email.errors import MessageError
from email.headerregistry import Address
from email.utils import getaddresses
from functools import cached_property
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import idna
from pydantic import SecretStr

from spell_billing.core.errors import SettingsError
from spell_billing.settings.addresses import LOOPBACK
from spell_billing.settings.environment import EnvironmentSettings

_PORTS = {"smtp": 587, "smtps": 465}
_EXAMPLE = "Write it as smtp://user:password@mail.example.com:587, or smtps:// for TLS from the start."


@dataclass(frozen=True)
class MailServer:
    """Where mail is handed in; `user` is None without a login.

    `tls` is `start` (STARTTLS, required), `at_once` (smtps), or `none`: this machine, or asked for.
    """

    host: str
    port: int
    tls: str
    user: str | None = None
    password: SecretStr = field(default=SecretStr(""), repr=False)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, repr=False)
class MailSettings(EnvironmentSettings):
    """The settings of mail to users."""

    @cached_property
    def server(self) -> MailServer | None:
        """`MAIL_URL`: the mail server for mail to users.

        As `smtp://user:password@mail.example.com:587`, or `smtps://`. Stripe sends mail of its own: see
        [mail.md](mail.md).

        Default: none: users get no mail from here.
        """
        text = self._text("MAIL_URL")
        return parse_mail_url(text) if text else None

    @cached_property
    def sender(self) -> Address:
        """`MAIL_FROM`: the sender of mail to users, as `Billing <billing@example.com>`.

        Needed with `MAIL_URL`.

        Default: none.
        """
        text = self._text("MAIL_FROM")
        if not text:
            raise SettingsError(
                "MAIL_FROM is not set.",
                remedy="Set it to the sender of mail to users, as Billing <billing@example.com>.",
            )
        try:
            ((name, address),) = getaddresses([text])
            return Address(display_name=name, addr_spec=checked_address(address))
        except ValueError:
            raise SettingsError(
                f"MAIL_FROM={text!r} is not an address.", remedy="Write it as Billing <billing@example.com>."
            ) from None

    @cached_property
    def templates(self) -> Path | None:
        """`MAIL_TEMPLATES`: a folder of templates for mail to users.

        Default: the built-in templates.
        """
        text = self._text("MAIL_TEMPLATES")
        if not text:
            return None
        path = Path(text).absolute()
        if not path.is_dir():
            raise SettingsError(
                f"MAIL_TEMPLATES={text!r} is not a folder.",
                remedy="Point it to a folder of templates, or leave it unset for the built-in ones.",
            )
        return path


def parse_mail_url(text: str) -> MailServer:
    """Read `smtp://` or `smtps://`; options: `?tls=none` for a server in a trusted network, without a login.

    Raises:
        SettingsError: when it is malformed, or would send a password or, unasked, mail in the clear.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    options = parse_qs(parts.query)
    has_more = parts.path.strip("/") or parts.fragment or options not in ({}, {"tls": ["none"]})
    if parts.scheme not in _PORTS or not parts.hostname or has_more:
        raise SettingsError("MAIL_URL is not the address of a mail server.", remedy=_EXAMPLE)
    return MailServer(
        host=parts.hostname,
        port=port or _PORTS[parts.scheme],
        tls=_tls(parts, in_the_clear="tls" in options),
        user=unquote(parts.username) if parts.username else None,
        password=SecretStr(unquote(parts.password or "")),
    )


def _tls(parts: SplitResult, *, in_the_clear: bool) -> str:
    if parts.scheme == "smtps":
        return "at_once"
    if parts.hostname in LOOPBACK:
        return "none"
    if in_the_clear and parts.username:
        raise SettingsError(
            "MAIL_URL would send its password unencrypted.", remedy="Leave out tls=none, or use smtps://."
        )
    return "none" if in_the_clear else "start"


def checked_address(text: str) -> str:
    """Return one mail address as it goes into a header, its domain in ASCII.

    Raises:
        ValueError: when the text is anything but one address.
    """
    local, at, domain = text.strip().rpartition("@")
    try:
        # Python's own codec knows the rules of 2003 alone: it sends mail for straße.de to strasse.de.
        encoded = domain.encode("idna") if domain.isascii() else idna.encode(domain, uts46=True)
        ascii_domain = encoded.decode("ascii")
        address = Address(addr_spec=f"{local}@{ascii_domain}")
    except (MessageError, ValueError, IndexError) as error:
        raise ValueError("not an address") from error
    if not at or not local or "." not in ascii_domain.strip(".") or not address.addr_spec.isprintable():
        raise ValueError("not an address")
    return address.addr_spec
