"""The overview's forms: approve, hold, release and settle, as plain HTML forms without scripts."""

from http import HTTPStatus
from urllib.parse import quote

from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from spell_billing.core.errors import LedgerError, MonthError, StripeAccountError
from spell_billing.core.month import Month
from spell_billing.web.context import WebContext
from spell_billing.web.decisions import BODIES, decide, refusal_of
from spell_billing.web.errors import error_page, in_a_sentence
from spell_billing.web.facts import facts_of
from spell_billing.web.forms import read_fields

DONE = {
    "approve": "Approved. The next billing run sends the month.",
    "hold": "Held. Nothing of it is sent until it is released.",
    "release": "Released. The next billing run sends it.",
    "settle": "Settled. Nobody waits for an invoice of it.",
}
"""What the page says after each decision."""


def form_routes(context: WebContext) -> list[Route]:
    """Return the routes that the forms are sent to; the gate stands before them."""

    async def take(request: Request) -> Response:
        return await _take(context, request)

    return [Route("/billing/{month}/decide", take, methods=["POST"])]


async def _take(context: WebContext, request: Request) -> Response:
    try:
        month = Month.parse(request.path_params["month"])
        fields = await read_fields(request)
        name = fields.pop("decision", "")
        if name not in BODIES:
            return error_page(422, "The form is not one of this server's pages", "Open the page again.")
        body = BODIES[name].model_validate(fields)
    except MonthError as error:
        return error_page(422, error.message.rstrip("."), error.remedy)
    except ValidationError as error:
        wrong = in_a_sentence(error.errors()[0], "The form")
        return error_page(422, wrong.rstrip("."), "Go back, and give a reason in words.")
    try:
        await run_in_threadpool(decide, context, facts_of(request.scope), month, body, name)
    except (LedgerError, StripeAccountError) as error:
        status, _ = refusal_of(error)
        return error_page(status, error.message.rstrip("."), f"{error.remedy} Nothing was changed.")
    user_id = fields.get("user_id")
    page = f"/billing/{month}" + (f"/users/{quote(user_id, safe='')}" if user_id else "")
    # A page that is loaded again must not send the form again.
    return RedirectResponse(f"{page}?done={name}", HTTPStatus.SEE_OTHER)
