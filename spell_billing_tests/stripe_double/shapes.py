"""What Stripe's own description says of the objects that it answers with, and Stripe's example objects."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs

HERE = Path(__file__).parent
DEFINITIONS: dict[str, Any] = json.loads((HERE / "objects.json").read_text())["$defs"]
FIXTURES: dict[str, Any] = json.loads((HERE / "fixtures.json").read_text())["resources"]
UNDESCRIBED = {"invoiceitem"}
"""Objects that the description leaves out; Stripe's example shows their fields."""


@cache
def validator(kind: str) -> Any:
    return jsonschema_rs.validator_for({"$ref": f"#/$defs/{kind}", "$defs": DEFINITIONS})


def require_shape(answer: Any) -> None:
    """Assert that an answer, and what it holds, has Stripe's shape and no field of our own."""
    if "error" in answer:
        validator("error").validate(answer)
        return
    kind = answer["object"]
    if kind == "list":
        for each in answer["data"]:
            require_shape(each)
        return
    if answer.get("deleted"):
        validator(f"deleted_{kind}").validate(answer)
        return
    if kind not in UNDESCRIBED:
        errors = [
            f"{each.instance_path}: {each.message}"[:300] for each in validator(kind).iter_errors(answer)
        ]
        assert errors == [], f"{kind}: {errors}"
    known = {*DEFINITIONS.get(kind, {}).get("properties", ()), *FIXTURES.get(kind, ())}
    assert answer.keys() <= known, f"Stripe's {kind} has no {sorted(answer.keys() - known)}"
    if kind == "event":
        require_shape(answer["data"]["object"])
