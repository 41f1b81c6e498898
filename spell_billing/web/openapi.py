"""`GET /openapi.json`: what the endpoints for programs take and give, as OpenAPI 3.1 made of their types."""

from importlib.metadata import version
from typing import Any

from fastapi.openapi.utils import get_openapi
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from spell_billing.web import admin, changes_api, decisions, health, history_api, webhook
from spell_billing.web.answers import json_answer
from spell_billing.web.context import WebContext

PATH = "/openapi.json"
_MODULES = (admin, decisions, history_api, changes_api, webhook, health)


def openapi_routes(context: WebContext) -> list[Route]:
    """Return the route; it lies behind the gate."""

    def describe(request: Request) -> Response:
        return json_answer(description(context.base_url(request)))

    return [Route(PATH, describe, methods=["GET"])]


def description(base_url: str) -> dict[str, Any]:
    """Return the whole description, with links that begin with `base_url`."""
    return get_openapi(
        title="Spell billing",
        version=version("spell-billing"),
        description="Amounts are integer minor units of the currency, times RFC 3339 in UTC.",
        servers=[{"url": base_url or "/"}],
        routes=[route for module in _MODULES for route in module.router.routes],
    )
