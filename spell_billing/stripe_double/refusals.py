"""Turns a schema violation into Stripe's 400: which parameter, what is wrong, which code."""

from collections.abc import Callable, Iterable
from typing import Any

from spell_billing.stripe_double.errors import ApiError

_SHOWN_CHARACTERS = 40
_NUMBER_CODE = "parameter_invalid_integer"

Said = tuple[str, str | None]
"""A message and a code."""


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
    path = [*error.instance_path, *_named(error)]
    param = _param(path)
    if error.instance == "":
        message, code = _empty(error, param)
    elif error.kind.name in {"maximum", "minimum"} and path[-1] in amounts:
        message, code = f"Amount must be no more than {abs(error.kind.limit)}.", "amount_too_large"
    else:
        message, code = _SAYINGS.get(error.kind.name, _malformed)(error, param)
    return ApiError(400, message, code=code, param=param)


def _tells_most(error: Any) -> tuple[int, bool]:
    return len(error.instance_path), error.kind.name not in {"type", "enum"}


def _named(error: Any) -> list[str]:
    if error.kind.name == "additionalProperties":
        return [error.kind.unexpected[0]]
    return [error.kind.property] if error.kind.name == "required" else []


def _param(path: list[str | int]) -> str:
    head, *rest = path or [""]
    return str(head) + "".join(f"[{step}]" for step in rest)


def _empty(_error: Any, param: str) -> Said:
    message = (
        f"You passed an empty string for '{param}'. We assume empty values are an attempt to unset a"
        f" parameter; however '{param}' cannot be unset."
    )
    return message, "parameter_invalid_empty"


def _unknown(error: Any, _param_name: str) -> Said:
    names = [_param([*error.instance_path, name]) for name in error.kind.unexpected]
    plural = "s" if len(names) > 1 else ""
    return f"Received unknown parameter{plural}: {', '.join(names)}", "parameter_unknown"


def _missing(_error: Any, param: str) -> Said:
    return f"Missing required param: {param}.", "parameter_missing"


def _wrong_type(error: Any, _param_name: str) -> Said:
    wanted = str(error.kind.types[0])
    return f"Invalid {wanted}: {_shown(error)}", _NUMBER_CODE if wanted == "integer" else None


def _not_listed(error: Any, param: str) -> Said:
    return f"Invalid {param}: must be one of {', '.join(map(str, error.kind.options))}", None


def _too_large(error: Any, _param_name: str) -> Said:
    limit, value = error.kind.limit, error.instance
    return f"This value must be less than or equal to {limit} (it currently is '{value}').", _NUMBER_CODE


def _too_small(error: Any, _param_name: str) -> Said:
    limit, value = error.kind.limit, error.instance
    return f"This value must be greater than or equal to {limit} (it currently is '{value}').", _NUMBER_CODE


def _too_long(error: Any, _param_name: str) -> Said:
    return f"Invalid string: {_shown(error)}...; must be at most {error.kind.limit} characters", None


def _too_many(error: Any, param: str) -> Said:
    return f"Array {param} exceeded maximum {error.kind.limit} allowed elements.", None


def _too_many_keys(error: Any, _param_name: str) -> Said:
    return f"You can only have {error.kind.limit} metadata keys.", None


def _key_too_long(_error: Any, _param_name: str) -> Said:
    return "Metadata keys can have up to 40 characters.", None


def _malformed(error: Any, param: str) -> Said:
    return f"Invalid {param}: {_shown(error)}", None


def _shown(error: Any) -> str:
    return str(error.instance)[:_SHOWN_CHARACTERS]


_SAYINGS: dict[str, Callable[[Any, str], Said]] = {
    "additionalProperties": _unknown,
    "required": _missing,
    "type": _wrong_type,
    "enum": _not_listed,
    "maximum": _too_large,
    "minimum": _too_small,
    "maxLength": _too_long,
    "maxItems": _too_many,
    "maxProperties": _too_many_keys,
    "propertyNames": _key_too_long,
}
