"""`GET /v1/changes`: what became of bills, page by page, for the platform alone."""

from typing import Any

import jsonschema_rs
import pytest

from spell_billing.ledger.thresholds import Reached, note_reached
from spell_billing_tests.proof.small_platform import APRIL
from spell_billing_tests.web.house import House
from spell_billing_tests.web_pages.world import hear, token_of

ONE, TWO = "user-0001", "user-0002"


def read(house: House, query: str = "") -> Any:
    answer = house.admit("GET", f"/v1/changes{query}")
    assert answer.status == 200, answer.text
    return answer.json


@pytest.mark.both_databases
def test_each_change_is_read_once_whatever_the_size_of_the_pages(doors: House) -> None:
    hear(doors, ONE, failed_attempts=1)
    hear(doors, ONE, status="paid", failed_attempts=1)

    whole = read(doors)
    pages, cursor, more = [], "0", True
    while more:
        page = read(doors, f"?after={cursor}&limit=2")
        pages += page["changes"]
        cursor, more = page["next"], page["more"]

    assert pages == whole["changes"]
    assert cursor == whole["next"]
    assert sorted((each["user_id"] or "", each["type"]) for each in pages[:3]) == [
        ("", "month.billed"),
        (ONE, "invoice.finalized"),
        (TWO, "invoice.finalized"),
    ]
    assert [(each["user_id"], each["type"]) for each in pages[3:]] == [
        (ONE, "invoice.payment_failed"),
        (ONE, "invoice.paid"),
    ]
    assert read(doors, f"?after={cursor}") == {"changes": [], "next": cursor, "more": False}
    hear(doors, TWO, status="paid")
    (new,) = read(doors, f"?after={cursor}")["changes"]
    assert (new["user_id"], new["type"], new["total_cents"], new["state"]) == (
        TWO,
        "invoice.paid",
        500,
        "paid",
    )


def test_a_threshold_of_a_spend_limit_is_among_them_as_it_is_described(light_doors: House) -> None:
    with light_doors.ledger.writing() as connection:
        note_reached(connection, APRIL, {ONE: Reached(80, 41, 50, "eur")}, light_doors.clock())

    answer = read(light_doors)

    *others, last = answer["changes"]
    assert (last["type"], last["percent"], last["so_far_cents"]) == ("usage.threshold_reached", 80, 41)
    assert not any("percent" in each for each in others)
    description = light_doors.admit("GET", "/openapi.json").json
    operation = description["paths"]["/v1/changes"]["get"]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    resolved = {**schema, "components": description["components"]}
    jsonschema_rs.validator_for(resolved, validate_formats=True).validate(answer)


def test_it_is_for_the_platform_alone(light_doors: House) -> None:
    token = token_of(light_doors, ONE)

    assert light_doors.ask("GET", "/v1/changes").status == 401
    assert light_doors.ask("GET", "/v1/changes", authorization=f"Bearer {token}").status == 401
    assert light_doors.ask("GET", f"/v1/changes?token={token}").status == 401


@pytest.mark.parametrize("query", ["?after=x", "?after=-1", "?after=1.0", "?limit=0", "?limit=1001"])
def test_a_wrong_parameter_is_refused(light_doors: House, query: str) -> None:
    assert light_doors.admit("GET", f"/v1/changes{query}").status == 422


def test_a_cursor_from_before_a_restore_is_refused_instead_of_skipping_what_comes(light_doors: House) -> None:
    beyond = int(read(light_doors)["next"]) + 1

    answer = light_doors.admit("GET", f"/v1/changes?after={beyond}")

    assert (answer.status, answer.json["error"]["code"]) == (422, "wrong_cursor")


def test_answers_are_as_they_are_described(light_doors: House) -> None:
    description = light_doors.admit("GET", "/openapi.json").json
    schema = description["paths"]["/v1/changes"]["get"]["responses"]["200"]["content"]["application/json"]
    resolved = {**schema["schema"], "components": description["components"]}

    jsonschema_rs.validator_for(resolved, validate_formats=True).validate(read(light_doors))
