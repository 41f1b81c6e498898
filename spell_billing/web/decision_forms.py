"""The forms of a month's page and of a user's: do what was decided, and say what came of it."""

from http import HTTPStatus
from urllib.parse import quote, urlencode

from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from spell_billing.core.errors import MonthError
from spell_billing.core.month import Month
from spell_billing.web.admin import BillingRequest, Launch, process
from spell_billing.web.context import WebContext
from spell_billing.web.decision_bodies import BODIES, Body, Decided, Told, Void
from spell_billing.web.decisions import decide, require_role_for
from spell_billing.web.errors import ApiError, error_page, in_a_sentence
from spell_billing.web.facts import facts_of
from spell_billing.web.month_pages import MonthPages, Said
from spell_billing.web.pages import read_fields

_ASKED_FOR = {"amount": "Write the amount as 2.50.", "reason": "Give a reason in words."}
"""What to do about a field that is not what is expected."""
_HOW_MUCH = "Write an amount, or choose all of it; not both."


def form_routes(context: WebContext, pages: MonthPages) -> list[Route]:
    """Return the route that the forms are sent to; the gate stands before it."""

    async def take(request: Request) -> Response:
        month = Month.parse(request.path_params["month"])
        fields = await read_fields(request)
        name, user_id = fields.get("decision", ""), fields.get("user_id") or None

        async def again(said: Said) -> Response:
            """Show the page that the form stands on, with what it held."""
            return await run_in_threadpool(pages.shown, request, month, user_id, said)

        # PostgreSQL knows no NUL: no user's page could be shown.
        if name not in {"bill", *BODIES} or "\x00" in (user_id or ""):
            words = "The form is not one of this server's pages", "Open the page again."
            return error_page(422, *words, back=f"/billing/{month}")
        address = f"/billing/{month}" + (f"/users/{quote(user_id, safe='')}" if user_id else "")
        try:
            if name == "bill":
                launch = await run_in_threadpool(_launch, context, request, month)
                query = {"run": launch.run_id} if launch.run_id else {"done": "already_billed"}
                return RedirectResponse(f"{address}?{urlencode(query)}", HTTPStatus.SEE_OTHER)
            body = BODIES[name].model_validate({key: fields[key] for key in fields if key != "decision"})
            done = await run_in_threadpool(decide, context, facts_of(request.scope), month, body, name)
        except ValidationError as error:
            return await again(Said(refused=_wrong(error), given=fields, status_code=422))
        except ApiError as error:
            said = error.message, f"{error.remedy} Nothing was changed."
            return await again(Said(refused=said, given=fields, status_code=error.status_code))
        if isinstance(done, Told) and done.words:
            return await again(Said(done=done.words, given=fields))
        # A page that is loaded again must not send the form again.
        query = {"done": _done(name, body, done)}
        return RedirectResponse(f"{address}?{urlencode(query)}", HTTPStatus.SEE_OTHER)

    return [Route("/billing/{month}/decide", take, methods=["POST"])]


def _launch(context: WebContext, request: Request, month: Month) -> Launch:
    """Start a run of the month, as the endpoint does.

    Raises:
        ApiError: when none is started.
    """
    facts = facts_of(request.scope)
    require_role_for("bill", facts)
    try:
        return process(
            context=context,
            runs=request.app.state.runs,
            facts=facts,
            base_url=context.base_url(request),
            response=Response(),
            wanted=BillingRequest(month=str(month)),
        )
    except MonthError as error:
        raise ApiError(422, "wrong_month", error.message, error.remedy) from error


def _wrong(error: ValidationError) -> tuple[str, str]:
    """Say what is wrong with a form, and what to do about it."""
    first = error.errors()[0]
    field = str(next(iter(first["loc"]), ""))
    remedy = _ASKED_FOR.get(field, _HOW_MUCH if error.title == "Credit" else "")
    return in_a_sentence(first, "The form"), remedy


def _done(name: str, body: Body, done: Decided) -> str:
    """Name what the page says after a decision, as in `month_pages.DONE`."""
    if done.approvals_missing:
        return "agree"
    return f"{name}-{body.then}" if isinstance(body, Void) else name
