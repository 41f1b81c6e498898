"""Signed links to one user's own page and figures: whose they are, and until when."""

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from itsdangerous import BadData

from spell_billing.web.context import WebContext
from spell_billing.web.keys import derive_key, signer
from spell_billing.web.settings import WebSettings

PURPOSE = "user link"
"""Nothing else is signed with this key, and this key signs nothing else: see `keys.derive_key`."""
CARD_LINK_DAYS = 30
_LONGEST_TOKEN = 8_000
"""Far more than a user id of 500 characters needs, whatever alphabet it is in."""


@dataclass(frozen=True, slots=True)
class Link:
    """What a token says. One that is over still says whose it was, but opens nothing."""

    user_id: str
    until: datetime
    is_over: bool


class Links:
    """Make and read tokens. They hold nothing but user id and end; a new `ADMIN_SECRET` ends all of them.

    Args:
        key: Of `PURPOSE`.
        clock: The present, an aware datetime.
    """

    def __init__(self, key: bytes, clock: Callable[[], datetime]) -> None:
        self._serializer = signer(key, PURPOSE)
        self._clock = clock

    def make(self, user_id: str, until: datetime) -> str:
        """Return a user's token, of letters that an address bears; `until` is aware, in whole seconds."""
        return str(self._serializer.dumps([user_id, int(until.timestamp())]))

    def read(self, token: str | None) -> Link | None:
        """Return what a token says; None for one that is not ours, or not exactly as we wrote it."""
        if not token or len(token) > _LONGEST_TOKEN or not token.isascii():
            return None
        try:
            user_id, until = self._serializer.loads(token)
        except BadData:
            return None
        moment = datetime.fromtimestamp(until, UTC)
        # Base64 has several spellings of some bytes: only our own is taken, so no changed token ever opens.
        if not hmac.compare_digest(self.make(user_id, moment), token):
            return None
        return Link(user_id, moment, is_over=self._clock() >= moment)


def card_links(web: WebSettings, now: datetime) -> Callable[[str], str] | None:
    """Return what writes a user's link to Stripe's page for adding a card, good for `CARD_LINK_DAYS`.

    None where the settings name no secret, or no public address of `serve`.

    Raises:
        SettingsError: when one of the two is wrong.
    """
    if not web.environment.get("ADMIN_SECRET", "").strip() or web.public_url is None:
        return None
    links = Links(derive_key(web.admin_secret, PURPOSE), lambda: now)
    until = now + timedelta(days=CARD_LINK_DAYS)
    return lambda user_id: f"{web.public_url}/u/{links.make(user_id, until)}/card"


def links_of(context: WebContext) -> Links:
    """Return the maker and reader of links of a server."""
    return Links(derive_key(context.web.admin_secret, PURPOSE), context.clock)
