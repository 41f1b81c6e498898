"""The history API: a user's invoices and usage for the platform's backend, and links for users themselves."""

from datetime import timedelta
from typing import Any

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from spell_billing.core.month import Month
from spell_billing.ledger.browsing import BillKey, bills_of
from spell_billing.web import cursors
from spell_billing.web.answers import json_answer, json_error
from spell_billing.web.bill_facts import invoice_facts
from spell_billing.web.context import WebContext
from spell_billing.web.facts import facts_of
from spell_billing.web.links import PURPOSE, Links
from spell_billing.web.user_access import refusal
from spell_billing.web.user_usage import is_known, read_usage

MOST_INVOICES = 100
USUAL_INVOICES = 20
MOST_HOURS = 720
USUAL_HOURS = 24


def history_routes(context: WebContext) -> list[Route]:
    """Return the routes below `/v1/users/`. Each checks for itself who asks; a user id may hold slashes."""
    api = _HistoryApi(context)
    return [
        Route("/v1/users/{user_id:path}/invoices", api.invoices, methods=["GET"]),
        Route("/v1/users/{user_id:path}/usage", api.usage, methods=["GET"]),
        Route("/v1/users/{user_id:path}/link", api.link, methods=["POST"]),
    ]


class _HistoryApi:
    def __init__(self, context: WebContext) -> None:
        self._context = context
        self._links = Links(context.key_for(PURPOSE), context.clock)

    async def invoices(self, request: Request) -> Response:
        user_id = request.path_params["user_id"]
        refused = refusal(request, user_id, self._links)
        if refused is not None:
            return refused
        limit = _whole_number(request.query_params.get("limit", str(USUAL_INVOICES)), MOST_INVOICES)
        if limit is None:
            return _wrong("wrong_limit", "limit", f"a whole number from 1 to {MOST_INVOICES}")
        before = None
        if "before" in request.query_params:
            before = cursors.unpack_month(request.query_params["before"])
            if before is None:
                return _wrong("wrong_cursor", "before", "the `next` of an earlier answer")
        internal = facts_of(request.scope).admitted
        found = await run_in_threadpool(self._read_invoices, user_id, before, limit, internal)
        return _unknown(user_id) if found is None else json_answer(found)

    async def usage(self, request: Request) -> Response:
        user_id = request.path_params["user_id"]
        refused = refusal(request, user_id, self._links)
        if refused is not None:
            return refused
        present = Month.containing(self._context.clock())
        text = request.query_params.get("month")
        month = present if text is None else Month.parse(text)
        if month > present:
            return json_error(
                422,
                "month_in_future",
                f"{month} has not begun yet.",
                f"Ask for {present} or an earlier month.",
            )
        usage = await run_in_threadpool(read_usage, self._context, user_id, month)
        return _unknown(user_id) if usage is None else json_answer(usage.as_json(user_id))

    async def link(self, request: Request) -> Response:
        facts = facts_of(request.scope)
        if not facts.admitted:
            return json_error(
                401, "no_secret", "A link is made with the admin secret only.", "Send X-Admin-Secret."
            )
        user_id = request.path_params["user_id"]
        hours = _hours(await request.body())
        if hours is None:
            wanted = f'nothing, or {{"expires_in_hours": {USUAL_HOURS}}} with 1 to {MOST_HOURS} hours'
            return _wrong("wrong_body", "The body", wanted)
        if not await run_in_threadpool(is_known, self._context, user_id):
            return _unknown(user_id)
        until = (self._context.clock() + timedelta(hours=hours)).replace(microsecond=0)
        facts.action = f"made a link for user {user_id} until {until.isoformat()}"
        base_url = self._context.base_url(request)
        return json_answer(
            {"url": f"{base_url}/u/{self._links.make(user_id, until)}", "expires_at": until.isoformat()}
        )

    def _read_invoices(
        self,
        user_id: str,
        before: BillKey | None,
        limit: int,
        internal: bool,  # noqa: FBT001
    ) -> dict[str, Any] | None:
        with self._context.ledger.reading() as connection:
            found = bills_of(connection, user_id, before=before, limit=limit + 1)
        if not found and before is None and not is_known(self._context, user_id):
            return None
        more, page = len(found) > limit, found[:limit]
        last = page[-1].bill if more else None
        return {
            "user_id": user_id,
            "invoices": [invoice_facts(each, internal=internal) for each in page],
            "next": cursors.pack((last.month, last.generation)) if last else None,
        }


def _hours(body: bytes) -> int | None:
    if not body.strip():
        return USUAL_HOURS
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(content, dict) or content.keys() - {"expires_in_hours"}:
        return None
    hours = content.get("expires_in_hours", USUAL_HOURS)
    return hours if type(hours) is int and 0 < hours <= MOST_HOURS else None


def _whole_number(text: str, most: int) -> int | None:
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(most)) else 0
    return number if 0 < number <= most else None


def _wrong(code: str, name: str, wanted: str) -> Response:
    return json_error(422, code, f"{name} is not what it should be.", f"Send {wanted}.")


def _unknown(user_id: str) -> Response:
    return json_error(
        404,
        "unknown_user",
        f"Nothing is known of user {user_id!r}: no invoice, no account, no usage.",
        "Check the user's id; in an address, / is written %2F.",
    )
