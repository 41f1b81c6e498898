"""docs/endpoints.md from the server's own description of its endpoints, as `/openapi.json` has it."""

import re
from collections.abc import Iterator
from typing import Any

from spell_billing.web.api import MONTH_SCHEMA, REFUSALS
from spell_billing.web.app import description
from spell_billing.web.error_codes import CODES
from spell_billing_tests.reference.pages import table

_FIELDS = ("field", "type", "what it is")
_WHO = {"adminSecret": "role `{}`", "userLink": "the user's link"}
_OPEN = {"/stripe/webhook": "Stripe, by its signature", "/health": "anyone"}
_BOUNDS = {"minimum": "from {}", "maximum": "to {}", "maxLength": "up to {} characters"}
_ERRORS = {"ErrorAnswer", "ErrorDetail"}
_LARGEST = 2**63 - 1


def endpoints() -> str:
    """Describe all endpoints in one table, then each of them, what they answer, and errors."""
    described = description("")
    operations = [
        _Operation(method.upper(), path, operation, described["components"]["schemas"])
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    ]
    names = list(dict.fromkeys(name for each in operations for name in each.answered()))
    schemas = described["components"]["schemas"]
    return "\n".join(
        [
            "## All endpoints\n",
            table(("endpoint", "what it does", "who may"), [each.row() for each in operations]),
            *(each.section() for each in operations),
            "## What is answered\n",
            *(_type_section(name, schemas) for name in _with_nested(names, schemas)),
            "## Errors\n",
            _errors(schemas),
        ]
    )


class _Operation:
    def __init__(self, method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> None:
        self.name, self.path, self.operation, self.schemas = f"{method} {path}", path, operation, schemas

    def answers(self) -> dict[str, tuple[str, str]]:
        """Give description and type of each answer, by status."""
        return {
            status: (answer["description"], _name(answer["content"]["application/json"]["schema"]))
            for status, answer in sorted(self.operation["responses"].items())
        }

    def answered(self) -> list[str]:
        return [name for _, name in self.answers().values() if name not in _ERRORS]

    def row(self) -> tuple[str, str, str]:
        who = [
            _WHO[scheme].format(*roles)
            for each in self.operation.get("security", ())
            for scheme, roles in each.items()
        ]
        anchor = re.sub(r"[^\w\- ]", "", self.name.lower()).replace(" ", "-")
        return (
            f"[`{self.name}`](#{anchor})",
            self.operation["description"],
            ", or ".join(who) or _OPEN[self.path],
        )

    def section(self) -> str:
        parts = [f"## {self.name}\n", self.operation["description"] + "\n"]
        taken = list(self._taken())
        if taken:
            parts.append(table(("takes", "in", "type", "default", "what it is"), taken))
        answers = [
            (status, text.replace("Successful Response", "Done."), _link(name))
            for status, (text, name) in self.answers().items()
            if text != REFUSALS.get(int(status))
        ]
        parts.append(table(("answers", "when", "with"), answers))
        return "\n".join(parts)

    def _taken(self) -> Iterator[tuple[str, str, str, str, str]]:
        for each in self.operation.get("parameters", ()):
            kind, text = _type(each["schema"]), each["description"]
            default = _default(each["schema"], required=each["required"])
            yield f"`{each['name']}`", each["in"], kind, default, text
        body = (
            self.operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
        )
        for name, schema, required in _properties(body or {}, self.schemas):
            default = _default(schema, required=required)
            yield f"`{name}`", "body", _type(schema), default, _meaning(name, schema, self.schemas)


def _type_section(name: str, schemas: dict[str, Any]) -> str:
    rows = [
        (f"`{field}`", _type(schema), _meaning(field, schema, schemas))
        for field, schema, _ in _properties(schemas[name], schemas)
    ]
    values = ", ".join(f"`{each}`" for each in schemas[name].get("enum", ()))
    return f"### {name}\n\n{schemas[name]['description']}\n\n" + (
        table(_FIELDS, rows) if rows else f"{values}.\n"
    )


def _errors(schemas: dict[str, Any]) -> str:
    shape = [
        (f"`error.{field}`", _type(schema), _meaning(field, schema, schemas))
        for field, schema in schemas["ErrorDetail"]["properties"].items()
    ]
    codes = [(str(status), f"`{code}`", when) for code, (status, when) in CODES.items()]
    return f"{table(_FIELDS, shape)}\n{table(('status', 'code', 'when'), codes)}"


def _with_nested(names: list[str], schemas: dict[str, Any]) -> list[str]:
    """Add the types that fields of these have, each behind the first that has it."""
    found: list[str] = []
    waiting = [*names]
    while waiting:
        name = waiting.pop(0)
        if name not in found and name not in _ERRORS:
            found.append(name)
            nested = re.findall(r"'#/components/schemas/(\w+)'", str(schemas[name].get("properties", {})))
            waiting = [*nested, *waiting]
    return found


def _properties(
    schema: dict[str, Any], schemas: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any], bool]]:
    whole = schemas[_name(schema)] if "$ref" in schema else schema
    for name, each in whole.get("properties", {}).items():
        yield name, each, name in whole.get("required", ())


def _link(name: str) -> str:
    return "[error](#errors)" if name in _ERRORS else f"[{name}](#{name.lower()})"


def _name(schema: dict[str, Any]) -> str:
    return str(schema["$ref"]).rpartition("/")[2]


def _default(schema: dict[str, Any], *, required: bool) -> str:
    if required:
        return "required"
    value = schema.get("default")
    return "" if value is None else str(value).lower()


def _meaning(name: str, schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    """Give a field's description, or that of the type it has."""
    refs = [each for each in (schema, *schema.get("anyOf", ()), schema.get("items", {})) if "$ref" in each]
    text = schema.get("description") or (schemas[_name(refs[0])].get("description") if refs else None)
    assert text, f"{name} has no description"
    examples = () if _type(schema) == "month" else schema.get("examples", ())
    return " ".join(text.split()) + "".join(f" As `{each}`." for each in examples)


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = _name(schema)
        return _link(name)
    if "anyOf" in schema and "type" not in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{each}`" for each in schema.get("enum", [schema.get("const")]))
    if schema["type"] == "array":
        return f"list of {_type(schema['items'])}"
    values = schema.get("additionalProperties")
    return f"object of {_type(values)} by name" if isinstance(values, dict) else _simple_type(schema)


def _simple_type(schema: dict[str, Any]) -> str:
    if schema.get("pattern") == MONTH_SCHEMA["pattern"]:
        return "month"
    kind = {"date-time": "time", "date": "day"}.get(schema.get("format", ""), schema["type"])
    bounds = [
        text.format(int(schema[bound]))
        for bound, text in _BOUNDS.items()
        if schema.get(bound, _LARGEST) != _LARGEST
    ]
    return " ".join([kind, *bounds])
