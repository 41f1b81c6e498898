"""Reads requests: decodes a form, validates it against Stripe's published parameters, names what is wrong."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qsl

import jsonschema_rs

from spell_billing.stripe_double.currencies import largest_cents
from spell_billing.stripe_double.errors import ApiError

_SCALARS: dict[str, tuple[str, Callable[[str], object]]] = {
    "integer": (r"-?\d{1,18}", int),
    "number": (r"-?\d+(\.\d+)?", Decimal),
    "boolean": (r"true|false", lambda value: value == "true"),
}
_NESTED = frozenset({"object", "array"})


def _decode(encoded: str) -> dict[str, Any]:
    """Decode `lines[0][amount]=5&expand[]=x` to nested dictionaries of strings; arrays too, by index."""
    root: dict[str, Any] = {}
    for key, value in parse_qsl(encoded, keep_blank_values=True):
        *parents, leaf = _steps(key)
        node = root
        for step in parents:
            child = node.get(step)
            if not isinstance(child, dict):
                child = node[step] = {}
            node = child
        node[leaf or str(len(node))] = value
    return root


@lru_cache(maxsize=16_384)
def _steps(key: str) -> tuple[str, ...]:
    head, *rest = key.split("[")
    return (head, *(step.removesuffix("]") for step in rest))


def _typed(value: Any, schema: Mapping[str, Any]) -> Any:
    """Return decoded strings as the types that a schema asks for; the validator refuses what stays."""
    if "anyOf" in schema:
        nested = isinstance(value, dict)
        fitting = [each for each in schema["anyOf"] if (each["type"] in _NESTED) == nested]
        schema = fitting[0] if fitting else {"type": "anything"}
    match schema["type"], value:
        case "array", dict() if all(key.isdecimal() for key in value):
            return [_typed(value[key], schema["items"]) for key in sorted(value, key=int)]
        case "object", dict() if "properties" in schema:
            known = schema["properties"]
            return {
                name: _typed(part, known[name]) if name in known else part for name, part in value.items()
            }
        case "integer" | "number" | "boolean" as kind, str():
            pattern, convert = _SCALARS[kind]
            return convert(value) if re.fullmatch(pattern, value) else value
    return value


_SHOWN_CHARACTERS = 40
_NUMBER = "parameter_invalid_integer"
_EMPTY = (
    "You passed an empty string for '{param}'. We assume empty values are an attempt to unset a parameter;"
    " however '{param}' cannot be unset."
)
_MALFORMED = ("Invalid {param}: {shown}", None)
_REFUSALS: dict[str, tuple[str, str | None]] = {
    "additionalProperties": ("Received unknown parameter{plural}: {unknown}", "parameter_unknown"),
    "required": ("Missing required param: {param}.", "parameter_missing"),
    "integer": ("Invalid integer: {shown}", _NUMBER),
    "type": ("Invalid {types[0]}: {shown}", None),
    "enum": ("Invalid {param}: must be one of {options}", None),
    "maximum": ("This value must be less than or equal to {limit} (it currently is '{value}').", _NUMBER),
    "minimum": ("This value must be greater than or equal to {limit} (it currently is '{value}').", _NUMBER),
    "maxLength": ("Invalid string: {shown}...; must be at most {limit} characters", None),
    "maxItems": ("Array {param} exceeded maximum {limit} allowed elements.", None),
    "maxProperties": ("You can only have {limit} metadata keys.", None),
    "propertyNames": ("Metadata keys can have up to 40 characters.", None),
}
"""Message and code by the keyword of JSON Schema that is violated."""


def _refusal(errors: Iterable[Any]) -> ApiError:
    """Return the answer to a request with the violations that jsonschema_rs found."""
    # Stripe names an unknown parameter first, then a missing one, then a malformed one.
    rank = {"additionalProperties": 0, "required": 1}
    error = min(errors, key=lambda each: rank.get(each.kind.name, len(rank)))
    while error.kind.name == "anyOf":
        error = max((branch[0] for branch in error.kind.context), key=_tells_most)
    kind, path = error.kind, list(error.instance_path)
    unknown = [_param([*path, name]) for name in getattr(kind, "unexpected", ())]
    param = unknown[0] if unknown else _param([*path, *_missing(kind)])
    types = list(map(str, getattr(kind, "types", ())))
    limit = getattr(kind, "limit", None)
    message, code = _REFUSALS.get("integer" if types[:1] == ["integer"] else kind.name, _MALFORMED)
    if error.instance == "":
        message, code = _EMPTY, "parameter_invalid_empty"
    elif kind.name in {"maximum", "minimum"} and path[-1] in _AMOUNTS:
        message, code, limit = "Amount must be no more than {limit}.", "amount_too_large", abs(kind.limit)
    text = message.format(
        param=param,
        unknown=", ".join(unknown),
        plural="s" if len(unknown) > 1 else "",
        types=types,
        options=", ".join(map(str, getattr(kind, "options", ()))),
        limit=limit,
        value=error.instance,
        shown=str(error.instance)[:_SHOWN_CHARACTERS],
    )
    return ApiError(text, code=code, param=param)


def _tells_most(error: Any) -> tuple[int, bool]:
    return len(error.instance_path), error.kind.name not in {"type", "enum"}


def _missing(kind: Any) -> list[str]:
    return [kind.property] if kind.name == "required" else []


def _param(path: list[str | int]) -> str:
    head, *rest = path or [""]
    return str(head) + "".join(f"[{step}]" for step in rest)


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
        params: dict[str, Any] = _typed(_decode(encoded), self.schema)
        if not self.validator.is_valid(params):
            raise _refusal(self.validator.iter_errors(params))
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
