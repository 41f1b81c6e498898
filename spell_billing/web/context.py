"""What the handlers of requests share: settings, ledger, usage, the clock."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from starlette.requests import HTTPConnection

from spell_billing.ledger.ledger import Ledger
from spell_billing.orchestration.resources import StripeResource
from spell_billing.settings.billing import Settings
from spell_billing.usage.contract import SourceRules, UsageSource
from spell_billing.usage.source import open_usage_source
from spell_billing.web.settings import WebSettings

_HOST = re.compile(r"[A-Za-z0-9.-]+(:[0-9]+)?|\[[0-9A-Fa-f:.]+\](:[0-9]+)?")


@dataclass(frozen=True)
class WebContext:
    """Made once by the server. Work on a database in an async handler belongs into `run_in_threadpool`.

    `web` has the settings of the server. Any thread may use the ledger. The clock's datetimes are aware.
    """

    settings: Settings
    web: WebSettings
    ledger: Ledger = field(repr=False)
    clock: Callable[[], datetime]

    @property
    def is_https(self) -> bool:
        """Whether the public address is one of https."""
        return (self.web.public_url or "").startswith("https://")

    def base_url(self, connection: HTTPConnection) -> str:
        """Return what links in an answer begin with, no slash at its end.

        Without a public URL links lead to the host that the request names.
        """
        if self.web.public_url is not None:
            return self.web.public_url
        host = connection.headers.get("host", "")
        return f"{connection.scope['scheme']}://{host}" if _HOST.fullmatch(host) else ""

    def usage_source(self) -> UsageSource:
        """Return the platform's usage as billing reads it; nothing is connected before the first call."""
        rules = SourceRules(items_by=self.settings.line_items_by)
        return open_usage_source(self.settings.usage_database, rules)

    def stripe(self, **patience: float) -> StripeResource:
        """Return the Stripe account of the settings; nothing is sent before it is connected.

        `patience` are fields of `StripeResource` that say how long to wait and how often to try.

        Raises:
            SettingsError: when no key is set.
        """
        settings = self.settings
        return StripeResource(
            api_key=settings.stripe_api_key.get_secret_value(),
            api_base=settings.stripe_api_base,
            requests_per_second=settings.stripe_requests_per_second,
            requests_per_second_per_endpoint=settings.stripe_requests_per_second_per_endpoint,
            **patience,  # type: ignore[arg-type]
        )
