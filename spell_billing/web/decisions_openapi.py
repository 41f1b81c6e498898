"""What the endpoints of decisions take and give, for `GET /openapi.json`."""

from typing import Any

from spell_billing.ledger.reviews import DecisionKind
from spell_billing.web.decisions import BODIES, PATH
from spell_billing.web.openapi_parts import ERROR, MONTH, REFUSALS, answer, named

DECISION_SCHEMAS: dict[str, Any] = {
    "Review": {
        "type": "object",
        "required": ["drafts_hash", "reviewed_at", "needs_approval", "findings", "approval"],
        "properties": {
            "drafts_hash": {"type": "string", "description": "Names the drafts that an approval holds for."},
            "reviewed_at": {"type": "string", "format": "date-time"},
            "needs_approval": {"type": "boolean"},
            "findings": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["code", "text", "data"],
                    "properties": {"code": {"type": "string"}, "text": {"type": "string"}},
                },
            },
            "approval": {"oneOf": [named("Decision"), {"type": "null"}]},
        },
    },
    "Decision": {
        "type": "object",
        "required": ["kind", "user_id", "reason", "actor", "at"],
        "properties": {
            "kind": {"enum": [kind.value for kind in DecisionKind]},
            "user_id": {"type": ["string", "null"]},
            "reason": {"type": "string"},
            "actor": {"type": "string"},
            "at": {"type": "string", "format": "date-time"},
        },
    },
}


def decision_paths() -> dict[str, Any]:
    """Return the paths; their bodies are described by the models that check them."""
    return {
        f"{PATH}{name}": {
            "post": {
                "operationId": f"{name}Month",
                "summary": str(body.__doc__).partition("\n")[0],
                "parameters": [{"name": "month", "in": "path", "required": True, "schema": MONTH}],
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": body.model_json_schema()}},
                },
                "responses": {
                    "200": answer("It is done, or was already.", {"type": "object"}),
                    "404": answer("The month has no bill of the user.", ERROR),
                    "409": answer(
                        "Not possible now: other drafts than those reviewed, nothing to decide, or a run is "
                        "at the month.",
                        ERROR,
                    ),
                    "413": answer("The body is too large.", ERROR),
                    "422": answer("That is no month, or the body is wrong.", ERROR),
                    **REFUSALS,
                },
            }
        }
        for name, body in BODIES.items()
    }
