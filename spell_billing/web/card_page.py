"""`/u/{token}/card`: sends a user on to Stripe's page for adding a card. The link is the admission."""

import logging

from fastapi.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from spell_billing.core.errors import SpellBillingError
from spell_billing.stripe_api.problems import StripeProblem
from spell_billing.web.context import WebContext
from spell_billing.web.errors import error_page
from spell_billing.web.facts import facts_of
from spell_billing.web.links import links_of
from spell_billing.web.user_page import not_opened

_ENDPOINT = "POST /v1/billing_portal/sessions"
_STRIPE_SECONDS = 10.0
_LOG = logging.getLogger("spell_billing.web")


def card_page_routes(context: WebContext) -> list[Route]:
    """Return the route; a server without Stripe's key has none."""
    if not context.settings.has_stripe_api_key:
        return []
    links = links_of(context)

    async def show(request: Request) -> Response:
        link = links.read(request.path_params["token"])
        if link is None or link.is_over:
            return not_opened(link)
        facts_of(request.scope).who = f"user link {link.user_id}"
        account = await run_in_threadpool(context.usage_source().account, link.user_id)
        if account is None or account.stripe_customer_id is None:
            return error_page(404, "There is no account to add a card to yet", "Ask the platform.")
        back = f"{context.base_url(request)}/u/{request.path_params['token']}"
        try:
            address = await _session(context, account.stripe_customer_id, back)
        except (SpellBillingError, StripeProblem) as error:
            _LOG.warning("Stripe's page for adding a card is not shown: %s", error)
            return _unavailable()
        if not address.startswith("https://"):
            _LOG.warning("Stripe's page for adding a card has no address that a browser may be sent to")
            return _unavailable()
        return RedirectResponse(address, status_code=303)

    return [Route("/u/{token}/card", show, methods=["GET"])]


def _unavailable() -> Response:
    return error_page(503, "Stripe's page cannot be opened now", "Try again later, or ask the platform.")


async def _session(context: WebContext, customer_id: str, back: str) -> str:
    """Return the address of a page on which the customer adds a card, which becomes the default one.

    Stripe makes the card the customer's `invoice_settings.default_payment_method`:
    https://docs.stripe.com/api/customer_portal/sessions/create

    Raises:
        StripeProblem: as where no settings of the customer portal were saved at Stripe.
        StripeAccountError: when Stripe refuses the key; StripeSilentError: when it does not answer.
    """
    flow = {
        "type": "payment_method_update",
        "after_completion": {"type": "redirect", "redirect": {"return_url": back}},
    }
    account = context.stripe(timeout_seconds=_STRIPE_SECONDS, down_seconds=_STRIPE_SECONDS, tries=2)
    async with account.connect(context.ledger) as gateway:
        parameters = {"customer": customer_id, "return_url": back, "flow_data": flow}
        return str((await gateway.send(_ENDPOINT, parameters)).object["url"])
