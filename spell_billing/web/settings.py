"""Settings of the server: the secret, Stripe's webhook secrets, the public address, trusted proxies."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from pydantic import SecretStr

from spell_billing.core.errors import SettingsError
from spell_billing.settings.billing import Settings
from spell_billing.web.people import SHORTEST_SECRET, Person, read_people

_HEADER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
_OTHER_HEADERS = frozenset({"authorization", "cookie", "host", "origin", "x-admin-secret"})


@dataclass(frozen=True, repr=False)
class WebSettings(Settings):
    """The settings of `serve`."""

    @cached_property
    def admin_secret(self) -> SecretStr:
        """`ADMIN_SECRET`: authenticates every request to `serve`.

        It goes in the header `X-Admin-Secret`, or into the browser's sign-in form. At least 16 printable
        ASCII characters without spaces, as from `openssl rand -hex 32`. A new one ends all sessions and all
        users' links. Give a `--read-only` server for other people a secret of its own.

        Default: none: `serve` does not start.
        """
        text = self._text("ADMIN_SECRET")
        if text is None:
            raise SettingsError(
                "ADMIN_SECRET is not set: without it anyone who can reach the server could bill every user.",
                remedy="Set it to a random text, as from `openssl rand -hex 32`.",
            )
        # A header carries nothing else, so a secret with another character could never be given right.
        if not text.isascii() or not text.isprintable() or " " in text:
            raise SettingsError(
                "ADMIN_SECRET has a character that no HTTP header carries safely.",
                remedy="Use printable ASCII without spaces, as from `openssl rand -hex 32`.",
            )
        if len(text) < SHORTEST_SECRET:
            raise SettingsError(
                f"ADMIN_SECRET is too short: it needs at least {SHORTEST_SECRET} characters.",
                remedy="Set it to a random text, as from `openssl rand -hex 32`.",
            )
        return SecretStr(text)

    @cached_property
    def people(self) -> Mapping[str, Person]:
        """`ADMIN_SECRETS`: people by name, each a line `name:role:hash`, beside `ADMIN_SECRET`.

        Roles: `view`, `operate`, `approve`. `spell-billing hash-secret` makes a line. Lines are separated by
        line breaks or spaces; in place of the hash, `proxy` is for someone whom the proxy signs in
        (`USER_HEADER`). See [serve](serve.md#people-by-name).

        Default: none.
        """
        return read_people(self.environment.get("ADMIN_SECRETS", ""))

    @cached_property
    def user_header(self) -> str | None:
        """`USER_HEADER`: the header in which a proxy names who is signed in, as `X-Forwarded-User`.

        Believed from the proxies in `FORWARDED_ALLOW_IPS` alone, which must overwrite what a client sends in
        it. The role is that of the name in `ADMIN_SECRETS`.

        Default: none.
        """
        text = self._text("USER_HEADER")
        if text is None:
            return None
        if not _HEADER_NAME.fullmatch(text) or text.lower() in _OTHER_HEADERS:
            raise SettingsError(
                f"USER_HEADER={text!r} is no header for a name.", remedy="Write it as X-Forwarded-User."
            )
        if not self.trusted_proxies or not self.people:
            missing = "ADMIN_SECRETS" if self.trusted_proxies else "FORWARDED_ALLOW_IPS"
            raise SettingsError(
                f"USER_HEADER is set, and {missing} is not: nobody could come in by it.",
                remedy="Name the proxies in FORWARDED_ALLOW_IPS, and who may come in by them in "
                "ADMIN_SECRETS, as anna@example.com:view:proxy.",
            )
        return text.lower()

    @cached_property
    def stripe_webhook_secrets(self) -> tuple[SecretStr, ...]:
        """`STRIPE_WEBHOOK_SECRET`: the signing secret (`whsec_...`) of Stripe's webhook endpoint.

        Stripe shows it for the endpoint `/stripe/webhook` of `serve`. Several, separated by commas, are all
        accepted while one replaces another.

        Default: none: the webhook answers 503.
        """
        texts = self._list("STRIPE_WEBHOOK_SECRET")
        if any(not text.startswith("whsec_") or len(text) < SHORTEST_SECRET for text in texts):
            raise SettingsError(
                "STRIPE_WEBHOOK_SECRET is not a signing secret of Stripe's.",
                remedy="It starts with whsec_; Stripe shows it on the page of the webhook endpoint.",
            )
        return tuple(SecretStr(text) for text in texts)

    @cached_property
    def trusted_proxies(self) -> tuple[str, ...]:
        """`FORWARDED_ALLOW_IPS`: reverse proxies whose `X-Forwarded-For` and `-Proto` headers are trusted.

        Addresses or networks, separated by commas. Without it the log shows the proxy's address, and all
        wrong secrets count as coming from there.

        Default: none.
        """
        texts = self._list("FORWARDED_ALLOW_IPS")
        for text in texts:
            try:
                everyone = ipaddress.ip_network(text, strict=False).prefixlen == 0
            except ValueError:
                everyone = True
            if everyone:
                raise SettingsError(
                    f"FORWARDED_ALLOW_IPS={text!r} is no proxy's address or network.",
                    remedy="Write the proxy's address, as 10.0.0.7 or 10.0.0.0/8; everyone is not taken.",
                )
        return tuple(texts)

    def _list(self, name: str) -> list[str]:
        return [text for part in self.environment.get(name, "").split(",") if (text := part.strip())]
