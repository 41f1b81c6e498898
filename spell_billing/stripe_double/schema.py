"""Validates every request against Stripe's published parameters, tightened by what Stripe enforces."""

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import jsonschema_rs

from spell_billing.stripe_double.currencies import largest_cents
from spell_billing.stripe_double.form import decode, typed
from spell_billing.stripe_double.refusals import refusal

MAX_LINES = 250

_AMOUNTS = frozenset({"amount", "unit_amount", "credit_amount", "refund_amount", "out_of_band_amount"})
_FORMATS = {
    "currency": lambda value: re.fullmatch(r"[A-Za-z]{3}", value) is not None,
    "decimal": lambda value: re.fullmatch(r"-?\d{1,20}(\.\d{1,12})?", value) is not None,
}


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of one operation: decodes, types and validates an encoded form or query."""

    schema: dict[str, Any]
    validator: Any

    def read(self, encoded: str) -> dict[str, Any]:
        """Return the typed parameters.

        Raises:
            ApiError: 400 in Stripe's shape, naming the parameter.
        """
        params: dict[str, Any] = typed(decode(encoded), self.schema)
        if not self.validator.is_valid(params):
            raise refusal(self.validator.iter_errors(params), amounts=_AMOUNTS)
        return params


@cache
def parameters() -> dict[str, Parameters]:
    """Compile the parameters of every operation, by method and path: `POST /v1/invoices`."""
    source = files("spell_billing.stripe_double").joinpath("requests.json")
    operations = json.loads(source.read_text(encoding="utf-8"))["operations"]
    return {name: _compile(name, operation) for name, operation in operations.items()}


def _compile(name: str, operation: dict[str, Any]) -> Parameters:
    if name.startswith("POST"):
        schema = operation["form"]
    else:
        query = [part for part in operation["query"] if part["in"] == "query"]
        schema = {
            "type": "object",
            "properties": {part["name"]: part["schema"] for part in query},
            "required": [part["name"] for part in query if part["required"]],
        }
    schema = _tighten(schema, "")
    if name.endswith("/add_lines"):
        schema["properties"]["lines"]["maxItems"] = MAX_LINES
    return Parameters(schema, jsonschema_rs.validator_for(schema, formats=_FORMATS, validate_formats=True))


def _tighten(schema: dict[str, Any], name: str) -> dict[str, Any]:
    """Add what Stripe enforces and its published schema does not say."""
    tight = dict(schema)
    if "anyOf" in tight:
        tight["anyOf"] = [_tighten(variant, name) for variant in tight["anyOf"]]
        return tight
    match tight["type"]:
        case "object" if "properties" in tight:
            tight["properties"] = {key: _tighten(part, key) for key, part in tight["properties"].items()}
            tight["additionalProperties"] = False
        case "object":
            tight |= {"maxProperties": 50, "propertyNames": {"maxLength": 40}}
            tight["additionalProperties"] = {"type": "string", "maxLength": 500}
        case "array":
            tight["items"] = _tighten(tight["items"], name)
        case "string" if "enum" not in tight:
            tight["minLength"] = 1
        case "integer" if name in _AMOUNTS:
            # The bound of the currency is checked where the currency is known.
            largest = largest_cents("idr")
            tight |= {"minimum": -largest, "maximum": largest}
        case "integer" if name == "limit":
            tight |= {"minimum": 1, "maximum": 100}
    return tight
