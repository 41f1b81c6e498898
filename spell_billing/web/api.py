"""What all endpoints for programs share: how requests are read, what they are given, how errors look."""

from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Path, Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader
from pydantic import BaseModel, BeforeValidator, Field, PlainSerializer, WithJsonSchema
from starlette.datastructures import Headers

from spell_billing.core.month import Month
from spell_billing.web.context import WebContext
from spell_billing.web.error_codes import code_schema
from spell_billing.web.facts import Facts, facts_of

MONTH_SCHEMA: dict[str, Any] = {
    "type": "string",
    "pattern": "^(?!0000|0001|9999)[0-9]{4}-(0[1-9]|1[0-2])$",
    "examples": ["2026-10"],
}
_ADMIN_SECRET = APIKeyHeader(name="X-Admin-Secret", scheme_name="adminSecret", auto_error=False)
"""For the description alone: the gate has compared the secret before a request is here."""


def _digits(value: object) -> object:
    if isinstance(value, str) and not (value.isascii() and value.isdigit()):
        raise ValueError("a whole number is written with digits alone")
    return value


DIGITS = BeforeValidator(_digits)
"""Of a whole number in an address: pydantic alone takes `+5` and `5.0`, too."""
Cents = Annotated[int, Field(description="Minor units of the currency.")]
Exact = Annotated[
    str,
    Field(
        pattern=r"^-?\d+(\.\d+)?$",
        description="Exact minor units, with decimals where a call costs a fraction of a cent.",
    ),
]
Money = Annotated[str, Field(description="The amount for people.", examples=["$12.34"])]
Currency = Annotated[str, Field(description="Of the amounts: three lower-case letters.", examples=["usd"])]
User = Annotated[str, Field(description="The platform's user.")]
Users = Annotated[int, Field(description="How many users.")]
Calls = Annotated[int, Field(description="How many calls.")]
MonthText = Annotated[str, Field(description="A calendar month in UTC.", json_schema_extra=MONTH_SCHEMA)]
MonthName = Annotated[str, Field(description="The month for people.", examples=["October 2026"])]
Moment = Annotated[
    datetime,
    PlainSerializer(datetime.isoformat, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]


class ErrorDetail(BaseModel):
    """What is wrong."""

    code: str = Field(description="For programs; it never changes.", json_schema_extra=code_schema())
    message: str = Field(description="For people.")
    remedy: str = Field(description="What to do about it.")


class ErrorAnswer(BaseModel):
    """An error."""

    error: ErrorDetail


def errors(texts: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """Describe errors that an endpoint answers with, by HTTP's status."""
    return {status: {"model": ErrorAnswer, "description": text} for status, text in texts.items()}


REFUSALS = {
    400: "The address is malformed.",
    401: "The secret is missing or wrong.",
    403: "The request comes from another site, the role is not enough, or the server only reads.",
    404: "There is no such path.",
    413: "The body is too large.",
    422: "The body or a parameter is wrong, or the month is not one that this can be done for.",
    429: "Too many wrong secrets came from this address: see Retry-After.",
    503: "The ledger, the platform's database or Dagster does not answer, or there is too much to do.",
}


def guarded_router(prefix: str = "", texts: Mapping[int, str] = MappingProxyType({})) -> APIRouter:
    """Return a router for endpoints behind the secret.

    `texts` are errors besides those of all endpoints, or that mean something else here.
    """
    return APIRouter(
        prefix=prefix,
        route_class=JsonRoute,
        dependencies=[Security(_ADMIN_SECRET)],
        responses=errors({**REFUSALS, **texts}),
    )


class JsonRoute(APIRoute):
    """Read every body as JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, which is given the request with its body as JSON."""
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return handle_json


class _JsonRequest(Request):
    @property
    def headers(self) -> Headers:
        # curl calls the bodies that our documentation shows a form.
        return Headers({**super().headers, "content-type": "application/json"})

    async def json(self) -> Any:
        # Unlike Python's own it refuses what is not UTF-8 or too deep as what it is: no JSON.
        return orjson.loads(await self.body())


async def _context(request: Request) -> WebContext:
    context: WebContext = request.app.state.context
    return context


async def _facts(request: Request) -> Facts:
    return facts_of(request.scope)


Context = Annotated[WebContext, Depends(_context)]
Asker = Annotated[Facts, Depends(_facts)]
"""Who asks; what an endpoint does is noted there."""


async def _base_url(request: Request, context: Context) -> str:
    return context.base_url(request)


async def _month(
    month: Annotated[str, Path(description="A calendar month in UTC.", json_schema_extra=MONTH_SCHEMA)],
) -> Month:
    return Month.parse(month)


BaseUrl = Annotated[str, Depends(_base_url)]
"""What links in an answer begin with."""
MonthInPath = Annotated[Month, Depends(_month)]
