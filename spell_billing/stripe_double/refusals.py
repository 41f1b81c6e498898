"""Turns a schema violation into Stripe's 400: which parameter, what is wrong, which code."""

from collections.abc import Iterable
from typing import Any

from spell_billing.stripe_double.errors import ApiError

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


def refusal(errors: Iterable[Any], *, amounts: frozenset[str]) -> ApiError:
    """Return the answer to an invalid request.

    Args:
        errors: The violations that jsonschema_rs found; at least one.
        amounts: The names of parameters whose bounds are those of an amount of money.
    """
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
    elif kind.name in {"maximum", "minimum"} and path[-1] in amounts:
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
