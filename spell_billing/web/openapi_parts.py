"""Pieces of the description at /openapi.json that all of its parts use."""

from typing import Any


def answer(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Describe one JSON answer."""
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def named(schema: str) -> dict[str, str]:
    """Refer to a schema of `components`."""
    return {"$ref": f"#/components/schemas/{schema}"}


ERROR = named("Error")
REFUSALS: dict[str, Any] = {
    "401": answer("The secret is missing or wrong.", ERROR),
    "403": answer("The request comes from another site, or the server only reads.", ERROR),
    "429": answer("Too many wrong secrets came from this address: see Retry-After.", ERROR),
    "503": answer("The ledger or Dagster does not answer, or there is too much to do.", ERROR),
}
"""Answers that every endpoint behind the secret may give."""

MONTH: dict[str, Any] = {
    "type": "string",
    "pattern": "^(?!0000|9999)[0-9]{4}-(0[1-9]|1[0-2])$",
    "examples": ["2026-10"],
}
