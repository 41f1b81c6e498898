"""Stripe's request encoding: bracketed form fields to nested values, typed by the request's schema."""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

Coercer = Callable[[Any], Any]

_INTEGER = re.compile(r"-?\d{1,18}")
_BOOLEANS = {"true": True, "false": False}


def decode(encoded: str) -> dict[str, Any]:
    """Decode `lines[0][amount]=5&expand[]=x` to nested dictionaries of strings.

    Arrays come out as dictionaries with the indexes as keys; the coercer of a schema makes lists of them.
    """
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


def coercer_for(schema: Mapping[str, Any]) -> Coercer:
    """Build the function that turns decoded strings into the types a JSON Schema asks for.

    What cannot be turned stays as it is: the validator then refuses it by name.
    """
    if "anyOf" in schema:
        return _any_of(schema["anyOf"])
    if schema["type"] == "array":
        return _array(coercer_for(schema["items"]))
    if "properties" in schema:
        return _object({name: coercer_for(part) for name, part in schema["properties"].items()})
    return _SCALARS.get(schema["type"], _as_it_is)


def _as_it_is(value: Any) -> Any:
    return value


def _integer(value: Any) -> Any:
    return int(value) if isinstance(value, str) and _INTEGER.fullmatch(value) else value


def _boolean(value: Any) -> Any:
    return _BOOLEANS.get(value, value) if isinstance(value, str) else value


def _number(value: Any) -> Any:
    try:
        return Decimal(value)
    except (InvalidOperation, TypeError, ValueError):
        return value


_SCALARS: dict[str, Coercer] = {"integer": _integer, "boolean": _boolean, "number": _number}


def _array(item: Coercer) -> Coercer:
    def coerce(value: Any) -> Any:
        if isinstance(value, dict) and all(key.isdecimal() for key in value):
            return [item(value[key]) for key in sorted(value, key=int)]
        return value

    return coerce


def _object(properties: dict[str, Coercer]) -> Coercer:
    def coerce(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: properties.get(name, _as_it_is)(part) for name, part in value.items()}
        return value

    return coerce


def _any_of(variants: list[dict[str, Any]]) -> Coercer:
    nested = [coercer_for(variant) for variant in variants if variant["type"] in {"object", "array"}]
    scalar = [coercer_for(variant) for variant in variants if variant["type"] not in {"object", "array"}]

    def coerce(value: Any) -> Any:
        fitting = nested if isinstance(value, dict) else scalar
        return fitting[0](value) if fitting else value

    return coerce
