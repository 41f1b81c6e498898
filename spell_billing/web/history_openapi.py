"""What the endpoints of the history API take and give, for `GET /openapi.json`."""

from typing import Any

from spell_billing.core.outcomes import State
from spell_billing.web.history_api import MOST_HOURS, MOST_INVOICES, USUAL_HOURS, USUAL_INVOICES
from spell_billing.web.openapi_parts import ERROR, answer

HISTORY_SCHEMES: dict[str, Any] = {
    "userLink": {
        "type": "http",
        "scheme": "bearer",
        "description": "The token of a user's link, which opens that user's data; `?token=` does as well.",
    }
}


def _object(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties, **more}


def _maybe(schema: dict[str, Any]) -> dict[str, Any]:
    return {"oneOf": [schema, {"type": "null"}]}


_TEXT: dict[str, Any] = {"type": "string"}
_COUNT: dict[str, Any] = {"type": "integer"}
_CENTS: dict[str, Any] = {"type": "integer", "description": "Minor units of the currency."}
_EXACT: dict[str, Any] = {
    "type": "string",
    "pattern": r"^-?\d+(\.\d+)?$",
    "description": "Exact minor units, with decimals where a call costs a fraction of a cent.",
}
_MONEY: dict[str, Any] = {"type": "string", "description": "The amount for people.", "examples": ["$12.34"]}
_TIME: dict[str, Any] = {"type": "string", "format": "date-time"}
_MONTH: dict[str, Any] = {"type": "string", "pattern": "^[0-9]{4}-(0[1-9]|1[0-2])$", "examples": ["2026-10"]}

_LINE = _object(
    {
        "kind": _TEXT,
        "description": _TEXT,
        "amount_cents": _CENTS,
        "amount": _MONEY,
        "usage_month": _TEXT,
        "calls": _COUNT,
    }
)
_PAYMENT = _object(
    {
        "status": {"type": "string", "description": "Stripe's: open, paid, uncollectible or void."},
        "attempts": _COUNT,
        "failed_attempts": _COUNT,
        "next_attempt_at": _maybe(_TIME),
        "amount_due_cents": _CENTS,
        "amount_due": _MONEY,
        "amount_paid_cents": _CENTS,
        "amount_paid": _MONEY,
        "as_of": {**_TIME, "description": "When Stripe said so."},
    }
)
_BREAKDOWN = _object(
    dict.fromkeys(
        ("usage_cents", "covered_cents", "late_cents", "credit_applied_cents", "other_cents"), _CENTS
    ),
    description="usage - covered by the plan + late usage - credit applied + other = total.",
)
_INVOICE = _object(
    {
        "month": _MONTH,
        "month_name": _TEXT,
        "generation": {"type": "integer", "description": "Above 1 where an earlier invoice was voided."},
        "state": {"enum": [state.value for state in State]},
        "state_in_words": _TEXT,
        "currency": _TEXT,
        "calls": _COUNT,
        "total_cents": _CENTS,
        "total": _MONEY,
        "discount_cents": {**_maybe(_CENTS), "description": "What a coupon took off; null where none may."},
        "tax_cents": {
            **_maybe(_CENTS),
            "description": "Tax on top of the total; null where none is computed.",
        },
        "invoice_cents": {
            **_CENTS,
            "description": "What the invoice charges: the total less the discount, with tax.",
        },
        "breakdown": _BREAKDOWN,
        "exact_usage_cents": _EXACT,
        "carried_cents": {**_CENTS, "description": "Credit that goes to a later invoice."},
        "lines": {"type": "array", "items": _LINE},
        "stripe_invoice_id": _maybe(_TEXT),
        "finalized_at": _maybe(_TIME),
        "hosted_invoice_url": {
            **_maybe(_TEXT),
            "description": "Stripe's page of the invoice; null until Stripe's event about it was read.",
        },
        "invoice_pdf": _maybe(_TEXT),
        "payment": _maybe(_PAYMENT),
    },
    description="With the secret also `reason` and `why`: why there is no invoice, and what to do about it.",
)
_CHARGE = {"usage_cents": _CENTS, "covered_cents": _CENTS, "due_cents": _CENTS, "due": _MONEY}
_USAGE = _object(
    {
        "user_id": _TEXT,
        "month": _MONTH,
        "month_name": _TEXT,
        "source": {"enum": ["live", "frozen"], "description": "As it is now, or as it was billed."},
        "as_of": _TIME,
        "currency": _TEXT,
        "calls": _COUNT,
        "exact_usage_cents": _EXACT,
        "included_cents": {**_CENTS, "description": "The plan's monthly allowance."},
        **_CHARGE,
        "days": _maybe(
            {
                "type": "array",
                "items": _object(
                    {
                        "day": {"type": "string", "format": "date"},
                        "calls": _COUNT,
                        "exact_usage_cents": _EXACT,
                    }
                ),
                "description": "Days (UTC) with calls; null where the frozen rows are not at hand.",
            }
        ),
        "projection": _maybe(
            _object(
                {**_CHARGE, "method": _TEXT},
                description="For the present month after its first day: linear by elapsed time.",
            )
        ),
    }
)
_USER = {
    "name": "user_id",
    "in": "path",
    "required": True,
    "description": "The platform's id, with / written %2F.",
    "schema": {"type": "string", "pattern": r"^[^\x00-\x1f\x7f]+$"},
}
_SECURITY: list[dict[str, list[str]]] = [{"adminSecret": []}, {"userLink": []}]
_REFUSALS = {
    "400": answer("The address is malformed.", ERROR),
    "401": answer("The secret or the link's token is missing, wrong or over.", ERROR),
    "403": answer("The link is for another user, or the request comes from another site.", ERROR),
    "404": answer("Nothing is known of the user.", ERROR),
    "422": answer("A parameter is wrong, or the month is in the future.", ERROR),
    "429": answer("Too many wrong secrets came from this address: see Retry-After.", ERROR),
    "503": answer(
        "The ledger or the platform's database does not answer, or there is too much to do.", ERROR
    ),
}
HISTORY_PATHS: dict[str, Any] = {
    "/v1/users/{user_id}/invoices": {
        "get": {
            "operationId": "listInvoices",
            "summary": "Give a user's invoices, the newest first, every generation.",
            "security": _SECURITY,
            "parameters": [
                _USER,
                {
                    "name": "limit",
                    "in": "query",
                    "schema": {
                        "type": "integer",
                        "minimum": 1,
                        "maximum": MOST_INVOICES,
                        "default": USUAL_INVOICES,
                    },
                },
                {
                    "name": "before",
                    "in": "query",
                    "description": "The `next` of the page before.",
                    "schema": _TEXT,
                },
            ],
            "responses": {
                "200": answer(
                    "A page of invoices; `next` is null on the last.",
                    _object(
                        {
                            "user_id": _TEXT,
                            "invoices": {"type": "array", "items": _INVOICE},
                            "next": _maybe(_TEXT),
                        }
                    ),
                ),
                **_REFUSALS,
            },
        }
    },
    "/v1/users/{user_id}/usage": {
        "get": {
            "operationId": "showUsage",
            "summary": "Give a user's calls and cost of a month, by day; for the present month so far.",
            "security": _SECURITY,
            "parameters": [
                _USER,
                {
                    "name": "month",
                    "in": "query",
                    "description": "Default: the present month (UTC).",
                    "schema": _MONTH,
                },
            ],
            "responses": {"200": answer("The usage.", _USAGE), **_REFUSALS},
        }
    },
    "/v1/users/{user_id}/link": {
        "post": {
            "operationId": "makeLink",
            "summary": "Make a link to the user's own page. Anyone with it sees the page until it expires.",
            "parameters": [_USER],
            "requestBody": {
                "required": False,
                "content": {
                    "application/json": {
                        "schema": {
                            "type": "object",
                            "additionalProperties": False,
                            "properties": {
                                "expires_in_hours": {
                                    "type": "integer",
                                    "minimum": 1,
                                    "maximum": MOST_HOURS,
                                    "default": USUAL_HOURS,
                                }
                            },
                        }
                    }
                },
            },
            "responses": {
                "200": answer("The link.", _object({"url": _TEXT, "expires_at": _TIME})),
                "413": answer("The body is too large.", ERROR),
                **_REFUSALS,
            },
        }
    },
}
