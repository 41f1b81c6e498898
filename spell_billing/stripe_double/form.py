"""Stripe's request encoding: bracketed form fields to nested values, typed by the request's schema."""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

_SCALARS: dict[str, tuple[str, Callable[[str], object]]] = {
    "integer": (r"-?\d{1,18}", int),
    "number": (r"-?\d+(\.\d+)?", Decimal),
    "boolean": (r"true|false", lambda value: value == "true"),
}
_NESTED = frozenset({"object", "array"})


def decode(encoded: str) -> dict[str, Any]:
    """Decode `lines[0][amount]=5&expand[]=x` to nested dictionaries of strings.

    Arrays come out as dictionaries with the indexes as keys; `typed` makes lists of them.
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


def typed(value: Any, schema: Mapping[str, Any]) -> Any:
    """Return decoded strings as the types that a JSON Schema asks for.

    What cannot be turned stays as it is: the validator then refuses it by name.
    """
    if "anyOf" in schema:
        nested = isinstance(value, dict)
        fitting = [each for each in schema["anyOf"] if (each["type"] in _NESTED) == nested]
        schema = fitting[0] if fitting else {"type": "anything"}
    match schema["type"], value:
        case "array", dict() if all(key.isdecimal() for key in value):
            return [typed(value[key], schema["items"]) for key in sorted(value, key=int)]
        case "object", dict() if "properties" in schema:
            known = schema["properties"]
            return {name: typed(part, known[name]) if name in known else part for name, part in value.items()}
        case "integer" | "number" | "boolean" as kind, str():
            pattern, convert = _SCALARS[kind]
            return convert(value) if re.fullmatch(pattern, value) else value
    return value
