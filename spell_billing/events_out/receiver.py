"""One address that takes events: its channel in the outbox, its name for operators, and a request to it."""

import hashlib
import hmac
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from pydantic import SecretStr

from spell_billing.ledger.outbox import EVENT
from spell_billing.settings.addresses import LOOPBACK

SIGNATURE = "Spell-Signature"
TIMEOUT_SECONDS = 10.0
"""Of one request, from connecting to the first bytes of the answer."""

_DIGITS = 16
_TAKEN = range(200, 300)


def signature(secret: SecretStr, body: bytes, unix_seconds: int) -> str:
    """Return the header that proves who sent a body and when, in Stripe's scheme.

    https://docs.stripe.com/webhooks#verify-manually: the platform can check it with Stripe's own libraries.
    """
    signed = b"%d.%s" % (unix_seconds, body)
    digest = hmac.new(secret.get_secret_value().encode(), signed, hashlib.sha256).hexdigest()
    return f"t={unix_seconds},v1={digest}"


@dataclass(frozen=True)
class Receiver:
    """One of EVENT_URLS. Its address may hold a secret, and appears in no message."""

    url: SecretStr

    @cached_property
    def channel(self) -> str:
        """The channel in the outbox, and the name of the cursor that says how far it was filled."""
        return f"{EVENT}{hashlib.sha256(self.url.get_secret_value().encode()).hexdigest()[:_DIGITS]}"

    def __str__(self) -> str:
        """Name it for operators."""
        return f"{urlsplit(self.url.get_secret_value()).hostname} #{self.channel.removeprefix(EVENT)[:8]}"

    @cached_property
    def proxy(self) -> str | None:
        """The proxy that the environment names for the address; none towards this machine."""
        parts = urlsplit(self.url.get_secret_value())
        host = str(parts.hostname)
        return None if host in LOOPBACK or proxy_bypass(host) else getproxies().get(parts.scheme)

    async def post(self, session: aiohttp.ClientSession, body: bytes, signed: str) -> str | None:
        """Send a body, once; return None when it was taken, else what went wrong, without secrets."""
        url = self.url.get_secret_value()
        headers = {"Content-Type": "application/json", "User-Agent": "spell-billing", SIGNATURE: signed}
        try:
            # A redirect is not followed: it would lead the event where nobody set it to go.
            async with session.post(
                url, data=body, headers=headers, proxy=self.proxy, allow_redirects=False
            ) as response:
                return None if response.status in _TAKEN else f"it answered with status {response.status}"
        except TimeoutError:
            return "it did not answer in time"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # Their texts have addresses in them, and a proxy's may have its login.
            return f"it could not be reached ({type(error).__name__})"
