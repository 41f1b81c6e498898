"""Put the server together: what needs no secret, what lies behind the gate, what every request passes."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.telemetry import TelemetryConfig
from starlette.datastructures import State
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from spell_billing.reporting.metrics import metrics_endpoint
from spell_billing.web import admin, decisions, health, history_api, webhook
from spell_billing.web.card_page import card_page_routes
from spell_billing.web.context import WebContext
from spell_billing.web.dagster_guard import DagsterGuard, reading_only
from spell_billing.web.errors import EXCEPTION_HANDLERS
from spell_billing.web.gate import Gate
from spell_billing.web.keys import derive_key
from spell_billing.web.launching import DagsterRuns
from spell_billing.web.login import PURPOSE, Sessions, login_routes
from spell_billing.web.middleware import (
    Turns,
    with_access_log,
    with_dagster_headers,
    with_limits,
    with_security_headers,
)
from spell_billing.web.overview import overview_routes
from spell_billing.web.people import Role
from spell_billing.web.secret import SecretCheck, Throttle
from spell_billing.web.standing import Standings
from spell_billing.web.user_page import user_page_routes

_NO_TELEMETRY = TelemetryConfig(
    tracing=False, metrics=False, logs=False, operation_spans=False, auto_configure=False
)


def create_app(context: WebContext, dagster_app: ASGIApp, runs: DagsterRuns, *, read_only: bool) -> ASGIApp:
    """Return the whole server around Dagster's webserver, which sees only requests that passed the gate.

    With `read_only` whatever is not reading is refused; `dagster_app` and `runs` must be made so as well.

    Raises:
        SettingsError: when `ADMIN_SECRET` is not set, or another setting of the server is wrong.
    """
    check = SecretCheck(context.web.admin_secret, context.web.people, context.clock, Throttle())
    sessions = Sessions(derive_key(context.web.admin_secret, PURPOSE), context.clock)
    # Read now: a wrong setting shall stop the server, not a request.
    _ = context.web.stripe_webhook_secrets, context.web.user_header

    def describe(request: Request) -> Response:
        return JSONResponse(description(context.base_url(request)))

    events, standings = webhook.EventHandling(context), Standings(context)
    shared = {"context": context, "runs": runs, "events": events, "standings": standings}
    unguarded = [*login_routes(context, check, sessions), *health.router.routes]
    unguarded += [] if read_only else webhook.router.routes
    # With a link's token a user comes in from outside, too: the handlers look at who asks.
    unguarded += [*history_api.router.routes, *user_page_routes(context, read_only=read_only)]
    unguarded += [] if read_only else card_page_routes(context)
    admitted = [
        *history_api.router.routes,
        *history_api.changes_router.routes,
        *overview_routes(context, read_only=read_only),
        *admin.router.routes,
        *decisions.router.routes,
        Route("/openapi.json", describe, methods=["GET"]),
        Route("/metrics", metrics_endpoint(lambda: nullcontext(context.ledger), settings=context.settings)),
    ]
    dagster = with_dagster_headers(DagsterGuard(dagster_app, read_only=read_only))
    behind = _OursOrDagster(admitted, _ours(admitted, shared), dagster)
    guarded = reading_only(behind) if read_only else behind
    gate = Gate(_ours(unguarded, shared), guarded, context, check, sessions)
    secured = with_security_headers(with_limits(gate), https=context.is_https)
    return with_access_log(secured, context.clock)


def description(base_url: str) -> dict[str, Any]:
    """Describe the endpoints for programs in OpenAPI 3.1, made of their types; `base_url` begins links."""
    routers = [each.router for each in (admin, decisions, history_api, webhook, health)]
    described = get_openapi(
        title="Spell billing",
        version=version("spell-billing"),
        description="Amounts are integer minor units of the currency, times RFC 3339 in UTC.",
        servers=[{"url": base_url or "/"}],
        routes=[route for router in [*routers, history_api.changes_router] for route in router.routes],
    )
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            role = decisions.ROLES.get(
                path.rpartition("/")[2], Role.VIEW if method == "get" else Role.OPERATE
            )
            for scheme in operation.get("security", ()):
                # OpenAPI 3.1 has a place here for the roles that may.
                scheme.update({name: [str(role)] for name in scheme if name == "adminSecret"})
    return described


@dataclass(frozen=True)
class _OursOrDagster:
    """Serve paths that are ours, and leave every other one, and the server's start and end, to Dagster."""

    routes: Sequence[BaseRoute]
    ours: ASGIApp
    otherwise: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_ours = scope["type"] != "lifespan" and any(
            route.matches(scope)[0] is not Match.NONE for route in self.routes
        )
        await (self.ours if is_ours else self.otherwise)(scope, receive, send)


def _ours(routes: Sequence[BaseRoute], shared: Mapping[str, object]) -> ASGIApp:
    app = FastAPI(
        openapi_url=None,
        # Another spelling of a path is not led to ours: it is not found.
        redirect_slashes=False,
        exception_handlers=EXCEPTION_HANDLERS,
        telemetry=_NO_TELEMETRY,
    )
    app.router.routes.extend(routes)
    app.state = State(dict(shared))

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        # HEAD is answered as GET is: uvicorn leaves the body out.
        await app({**scope, "method": "GET"} if scope.get("method") == "HEAD" else scope, receive, send)

    return Turns(serve)
