"""`GET /openapi.json`: what the endpoints for programs take and give, as OpenAPI 3.1."""

from importlib.metadata import version
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from spell_billing.web.admin import DEFAULT_MONTHS, MONTHS_PATH, MOST_MONTHS, PROCESS_PATH
from spell_billing.web.answers import json_answer
from spell_billing.web.context import WebContext
from spell_billing.web.decisions_openapi import DECISION_SCHEMAS, decision_paths
from spell_billing.web.history_openapi import HISTORY_PATHS, HISTORY_SCHEMES
from spell_billing.web.openapi_parts import ERROR, MONTH, REFUSALS, answer, named
from spell_billing.web.webhook import PATH as WEBHOOK_PATH

PATH = "/openapi.json"


def openapi_routes(context: WebContext) -> list[Route]:
    """Return the route; it lies behind the gate."""

    async def describe(request: Request) -> Response:
        return json_answer(description(context.base_url(request)))

    return [Route(PATH, describe, methods=["GET"])]


def description(base_url: str) -> dict[str, Any]:
    """Return the whole description, with links that begin with `base_url`."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Spell billing",
            "version": version("spell-billing"),
            "description": "Amounts are integer minor units of the currency, times RFC 3339 in UTC.",
        },
        "servers": [{"url": base_url or "/"}],
        "security": [{"adminSecret": []}],
        "paths": {**_ADMIN_PATHS, **decision_paths(), **HISTORY_PATHS, **_OTHER_PATHS},
        "components": {
            "securitySchemes": {**_SCHEMES, **HISTORY_SCHEMES},
            "schemas": {**_SCHEMAS, **DECISION_SCHEMAS},
        },
    }


_LINKS = {
    "type": "object",
    "required": ["status"],
    "properties": {"run": {"type": "string"}, "status": {"type": "string"}},
}
_COUNTS = (
    *("users", "calls", "total_cents", "invoiced", "failed", "held", "skipped", "parked", "pending", "void"),
    *("settled", "invoiced_cents", "uninvoiced_cents"),
    *(
        "covered_cents",
        "late_cents",
        "credit_applied_cents",
        "carried_cents",
        "tax_cents",
        "discount_cents",
        "without_tax",
    ),
    *("paid", "paid_cents", "payment_failed", "payment_failed_cents", "uncollectible", "uncollectible_cents"),
)
_SCHEMES = {"adminSecret": {"type": "apiKey", "in": "header", "name": "X-Admin-Secret"}}
_SCHEMAS: dict[str, Any] = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["code", "message", "remedy"],
                "properties": {name: {"type": "string"} for name in ("code", "message", "remedy")},
            }
        },
    },
    "Run": {
        "type": "object",
        "required": ["id", "status", "actor", "created_at", "ended_at", "url"],
        "properties": {
            "id": {"type": "string"},
            "status": {"type": "string", "description": "Dagster's, as QUEUED, STARTED, SUCCESS or FAILURE."},
            "actor": {"type": "string", "description": "Who launched it."},
            "created_at": {"type": "string", "format": "date-time"},
            "ended_at": {"type": ["string", "null"], "format": "date-time"},
            "url": {"type": "string", "description": "Its page in Dagster."},
        },
    },
    "Launch": {
        "type": "object",
        "required": ["status", "month", "run_id", "links"],
        "properties": {
            "status": {"enum": ["started", "already_billed", "already_running"]},
            "month": MONTH,
            "run_id": {"type": ["string", "null"]},
            "links": _LINKS,
        },
    },
    "Month": {
        "type": "object",
        "required": [
            "month",
            "state",
            *_COUNTS,
            "usage_cents",
            "currencies",
            "reasons",
            "usage_version",
            "review",
            "decisions",
            "runs",
        ],
        "properties": {
            "month": MONTH,
            "state": {"enum": ["open", "unbilled", "in_review", "partial", "billed"]},
            **{name: {"type": "integer"} for name in _COUNTS},
            "usage_cents": {"type": "number", "description": "The exact cost of the frozen usage."},
            "currencies": {"type": "array", "items": {"type": "string"}},
            "reasons": {"type": "array", "items": named("Reason")},
            "usage_version": {"type": ["string", "null"]},
            "review": {"oneOf": [named("Review"), {"type": "null"}]},
            "decisions": {"type": "array", "items": named("Decision"), "description": "The newest first."},
            "runs": {"type": "array", "items": named("Run"), "description": "The newest first."},
        },
    },
    "Reason": {
        "type": "object",
        "required": ["state", "reason", "users", "total_cents", "currency", "remedy", "first_users"],
        "properties": {
            "state": {"type": "string"},
            "reason": {"type": "string"},
            "users": {"type": "integer"},
            "total_cents": {"type": "integer"},
            "currency": {"type": "string"},
            "remedy": {"type": "string"},
            "first_users": {"type": "array", "items": {"type": "string"}},
        },
    },
}
_LAUNCH = named("Launch")
_ADMIN_PATHS: dict[str, Any] = {
    PROCESS_PATH: {
        "post": {
            "operationId": "processMonthly",
            "summary": "Start the billing of a closed month, unless it runs already or is done.",
            "requestBody": {
                "required": False,
                "content": {
                    "application/json": {
                        "schema": {
                            "type": "object",
                            "additionalProperties": False,
                            "properties": {
                                "month": {
                                    "oneOf": [MONTH, {"type": "null"}],
                                    "description": "Default: the last closed month.",
                                },
                                "verify": {
                                    "type": "boolean",
                                    "description": "Ask Stripe what stands even when every user is done.",
                                },
                            },
                        }
                    }
                },
            },
            "responses": {
                "200": answer("The month is billed already; nothing was started.", _LAUNCH),
                "202": answer("A run was started.", _LAUNCH),
                "409": answer("A run of the month is under way.", {"allOf": [_LAUNCH, ERROR]}),
                "413": answer("The body is too large.", ERROR),
                "422": answer("The month is not closed or too early, or the body is wrong.", ERROR),
                **REFUSALS,
            },
        }
    },
    MONTHS_PATH: {
        "get": {
            "operationId": "listMonths",
            "summary": "Say where the latest months stand, the newest first.",
            "parameters": [
                {
                    "name": "limit",
                    "in": "query",
                    "schema": {
                        "type": "integer",
                        "minimum": 1,
                        "maximum": MOST_MONTHS,
                        "default": DEFAULT_MONTHS,
                    },
                }
            ],
            "responses": {
                "200": answer(
                    "The months.",
                    {
                        "type": "object",
                        "required": ["months"],
                        "properties": {"months": {"type": "array", "items": named("Month")}},
                    },
                ),
                "422": answer("limit is no number of months.", ERROR),
                **REFUSALS,
            },
        }
    },
    MONTHS_PATH + "/{month}": {
        "get": {
            "operationId": "showMonth",
            "summary": "Say where a month stands, with its latest runs.",
            "parameters": [{"name": "month", "in": "path", "required": True, "schema": MONTH}],
            "responses": {
                "200": answer("The month.", named("Month")),
                "404": answer("There is no such path.", ERROR),
                "422": answer("That is no month.", ERROR),
                **REFUSALS,
            },
        }
    },
}
_OTHER_PATHS: dict[str, Any] = {
    WEBHOOK_PATH: {
        "post": {
            "operationId": "stripeWebhook",
            "summary": "Takes an event that Stripe signed; handles it after the answer.",
            "security": [],
            "parameters": [
                {"name": "Stripe-Signature", "in": "header", "required": True, "schema": {"type": "string"}}
            ],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"type": "object"}}},
            },
            "responses": {
                "200": answer("Taken; `new` is false for one that came before.", {"type": "object"}),
                "400": answer("The signature is missing, wrong or too old.", ERROR),
                "413": answer("The body is too large.", ERROR),
                "503": answer("STRIPE_WEBHOOK_SECRET is not set, or the ledger does not answer.", ERROR),
            },
        }
    },
    "/health": {
        "get": {
            "operationId": "health",
            "summary": "Whether the server can work.",
            "security": [],
            "responses": {
                "200": answer("It can.", {"type": "object"}),
                "503": answer("It cannot.", {"type": "object"}),
            },
        }
    },
}
