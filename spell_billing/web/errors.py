"""JSON answers, and answers to requests that go wrong: JSON for programs, a plain page for people."""

import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import orjson
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from spell_billing.core.errors import MonthError, SpellBillingError
from spell_billing.core.money import exact_number
from spell_billing.web.facts import facts_of
from spell_billing.web.pages import page

_LOG = logging.getLogger("spell_billing.web")
_API_PREFIXES = ("/admin/", "/v1/", "/stripe/", "/graphql", "/report_")
HTTP_ERRORS: Mapping[int, tuple[str, str, str]] = {
    400: ("wrong_path", "The address is malformed", "Check it."),
    404: ("not_found", "There is no such page", "Check the address."),
    405: ("method_not_allowed", "The address does not take this kind of request", "See /openapi.json."),
    413: ("body_too_large", "The request is too large", "Send less at once."),
}


class ApiError(Exception):
    """End a request to an endpoint for programs with an error; `json_error` says what it is made of."""

    def __init__(self, status_code: int, code: str, message: str, remedy: str, **more: Any) -> None:
        super().__init__(code)
        self.status_code, self.message, self.remedy = status_code, message, remedy
        self.answer = json_error(status_code, code, message, remedy, **more)


def json_answer(
    content: object, status_code: int = 200, *, headers: Mapping[str, str] | None = None
) -> Response:
    """Return content as JSON; a decimal appears with all its digits, as a number."""
    body = orjson.dumps(content, default=exact_number)
    return Response(body, status_code, headers=headers, media_type="application/json")


def json_error(
    status_code: int,
    code: str,
    message: str,
    remedy: str,
    *,
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> Response:
    """Return an error: `{"error": {"code", "message", "remedy"}}`, and what else the caller adds beside it.

    The code is for programs, as `month_not_closed`, and never changes; the rest is in plain words.
    """
    error = {"error": {"code": code, "message": message, "remedy": remedy}}
    return json_answer({**error, **more}, status_code, headers=headers)


def in_a_sentence(wrong: Mapping[str, Any], what: str) -> str:
    """Name one of pydantic's errors, without repeating what was sent."""
    place = ".".join(str(part) for part in wrong["loc"])
    reason = str(wrong["msg"]).removeprefix("Value error, ")
    return f"{what} is not what is expected{f' at {place}' if place else ''}: {reason}."


def wants_page(connection: HTTPConnection) -> bool:
    """Return whether an answer is for a person: a browser asks, and for no endpoint of programs."""
    is_program = connection.scope["path"].startswith(_API_PREFIXES)
    return not is_program and "text/html" in connection.headers.get("accept", "")


def error_page(
    status_code: int,
    heading: str,
    remedy: str,
    *,
    headers: Mapping[str, str] | None = None,
    back: str | None = None,
) -> Response:
    """Return a page that says in plain words what is wrong and what to do.

    With `back`, the address of the page above, it has the overview's header, and a link there.
    """
    return page("error.html", status_code, headers=headers, heading=heading, remedy=remedy, back=back)


def error_answer(
    connection: HTTPConnection,
    status_code: int,
    code: str,
    message: str,
    remedy: str,
    *,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return an error as a page or as JSON, as the request wants it; the message ends without a full stop."""
    if wants_page(connection):
        ours = connection.scope["path"].startswith("/billing") and facts_of(connection.scope).admitted
        return error_page(status_code, message, remedy, headers=headers, back="/billing" if ours else None)
    return json_error(status_code, code, f"{message}.", remedy, headers=headers)


async def http_error(request: Request, error: HTTPException) -> Response:
    """Return the answer to an error of HTTP, as an unknown path or a body that is too large."""
    words = HTTP_ERRORS.get(
        error.status_code, ("refused", "The request cannot be served", "Check it against /openapi.json.")
    )
    # What is left of the body is not read: the connection ends.
    headers = {"Connection": "close"} if error.status_code in {400, 413} else error.headers
    return error_answer(request, error.status_code, *words, headers=headers)


async def _api_error(_: Request, error: ApiError) -> Response:
    return error.answer


async def _wrong_request(_: Request, error: RequestValidationError) -> Response:
    wrong = error.errors()[0]
    kind, *place = wrong["loc"]
    what = "body" if kind == "body" else str(place.pop(0))
    message = in_a_sentence({**wrong, "loc": place}, "The body" if kind == "body" else what)
    return json_error(422, f"wrong_{what}", message, "See /openapi.json.")


async def _known_error(request: Request, error: SpellBillingError) -> Response:
    if isinstance(error, MonthError):
        return error_answer(request, 422, "wrong_month", error.message.rstrip("."), error.remedy)
    # Its message may name hosts and files: for the server's log, not for the client.
    _LOG.warning("%s", error)
    again = "Try again; the server's log says why."
    remedy = again if error.transient else "The server's log says what to correct."
    words = "Billing cannot answer now", remedy
    return error_answer(request, 503, "not_available", *words)


async def _database_error(request: Request, error: SQLAlchemyError) -> Response:
    # Without the statement and its values, which are data of users.
    reason = error.orig if isinstance(error, DBAPIError) else type(error).__name__
    _LOG.warning("the database did not answer: %s", reason)
    words = "Billing's database does not answer", "Try again in a minute."
    return error_answer(request, 503, "not_available", *words)


async def _unknown_error(request: Request, _: Exception) -> Response:
    words = "Something went wrong on the server", "The server's log says what."
    return error_answer(request, 500, "internal_error", *words)


EXCEPTION_HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {
    HTTPException: http_error,
    RequestValidationError: _wrong_request,
    ApiError: _api_error,
    SpellBillingError: _known_error,
    SQLAlchemyError: _database_error,
    Exception: _unknown_error,
}
