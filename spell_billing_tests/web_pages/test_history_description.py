"""What `GET /openapi.json` says of the history API is what it answers."""

from typing import Any

import jsonschema_rs

from spell_billing_tests.proof.small_platform import SmallPlatform
from spell_billing_tests.web.house import House
from spell_billing_tests.web_pages.world import api, hear, moment

ONE = "user-0001"


def must_be_as_described(description: dict[str, Any], path: str, method: str, answer: Any) -> None:
    operation = description["paths"][f"/v1/users/{{user_id}}/{path}"][method]
    schema = operation["responses"][str(answer.status)]["content"]["application/json"]["schema"]
    resolved = {**schema, "components": description["components"]}
    jsonschema_rs.validator_for(resolved, validate_formats=True).validate(answer.json)


def test_answers_are_as_they_are_described(light_doors: House, light_platform: SmallPlatform) -> None:
    hear(light_doors, ONE, failed_attempts=1, next_attempt_at=moment(6))
    light_platform.source.calls([(ONE, 100, moment(1))])
    description = light_doors.admit("GET", "/openapi.json").json

    for user, rest in (
        *((ONE, each) for each in ("invoices", "invoices?limit=0", "invoices?before=x", "usage", "standing")),
        *((ONE, f"usage?month={each}") for each in ("2025-03", "2025-02", "2030-01", "x")),
        *(("user-0003", each) for each in ("invoices", "usage?month=2025-03")),
        *(("nobody", each) for each in ("invoices", "usage", "standing")),
    ):
        answer = light_doors.admit("GET", api(user, rest))
        must_be_as_described(description, rest.partition("?")[0], "get", answer)
    for user, body in ((ONE, None), (ONE, "[]"), ("nobody", None)):
        answer = light_doors.admit("POST", api(user, "link"), body)
        must_be_as_described(description, "link", "post", answer)
    must_be_as_described(description, "usage", "get", light_doors.ask("GET", api(ONE, "usage?token=x")))
