"""`--read-only`: people look at everything and change nothing, whichever way they ask."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from dagster_graphql.schema import create_schema

from spell_billing_tests.web.house import SECRET, House, house


@pytest.fixture(scope="module")
def reading_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    home = tmp_path_factory.mktemp("reading")
    database = home / "billing.db"
    database.touch()
    with house(f"sqlite:///{database}", home, read_only=True) as opened:
        yield opened


def graphql(at: House, query: str) -> Any:
    return at.admit("POST", "/graphql", json.dumps({"query": query}), content_type="application/json")


def test_no_mutation_of_dagster_passes(reading_house: House) -> None:
    mutations = create_schema().graphql_schema.mutation_type
    assert mutations is not None

    for name in mutations.fields:
        for query in (f"mutation {{ {name} }}", f"mutation M {{ ... on Mutation {{ x: {name} }} }}"):
            answer = graphql(reading_house, query)
            assert answer.status == 403, name
            assert "only reads" in answer.json["errors"][0]["message"]


def test_a_mutation_does_not_hide_behind_a_query_or_an_escape(reading_house: House) -> None:
    hidden = (
        "query Q { version } mutation M { setNuxSeen }",
        "fragment F on Mutation { setNuxSeen } mutation { ...F }",
        "#comment\n,,, mutation{setNuxSeen}",
    )
    for query in hidden:
        assert graphql(reading_house, query).status == 403
    escaped = '{"query": "\\u006dutation{setNuxSeen}"}'
    assert reading_house.admit("POST", "/graphql", escaped, content_type="application/json").status == 403
    twice = '{"query": "{version}", "query": "mutation{setNuxSeen}"}'
    assert reading_house.admit("POST", "/graphql", twice, content_type="application/json").status == 403


def test_everything_else_that_changes_something_is_refused(reading_house: House) -> None:
    for path in (
        "/admin/billing/process-monthly",
        "/report_asset_materialization/stripe_invoices?partition=2025-03-01",
        "/report_asset_check/x",
        "/report_asset_observation/x",
        "/v1/users/user-0001/link",
        "/anything",
    ):
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            answer = reading_house.admit(method, path, "{}")
            assert answer.status == 403, f"{method} {path}"
            assert answer.json["error"]["code"] == "read_only"
    assert list(reading_house.instance.get_runs()) == []


def test_events_are_not_taken(reading_house: House) -> None:
    assert reading_house.ask("POST", "/stripe/webhook", "{}").status == 404


def test_looking_works(reading_house: House) -> None:
    assert graphql(reading_house, "{ version }").status == 200
    assert graphql(reading_house, '{ runOrError(runId: "mutation") { __typename } }').status == 200
    for path in ("/", "/admin/billing/months", "/metrics", "/openapi.json", "/billing"):
        assert reading_house.admit("GET", path).status == 200
    assert reading_house.sign_in()


def test_dagsters_own_pages_know_that_nothing_can_be_launched(
    reading_house: House, shared_house: House
) -> None:
    query = "{ permissions { permission value } }"
    reading = {each["value"] for each in graphql(reading_house, query).json["data"]["permissions"]}
    launching = {each["value"] for each in graphql(shared_house, query).json["data"]["permissions"]}

    assert reading == {False}
    assert True in launching


def test_the_launching_server_names_changes_in_its_log(shared_house: House) -> None:
    shared_house.ask(
        "POST",
        "/graphql",
        '{"query": "mutation { setNuxSeen x: logTelemetry { __typename } }"}',
        secret=SECRET,
        content_type="application/json",
    )

    assert shared_house.lines.wait_for(path="/graphql")["action"] == "graphql setNuxSeen logTelemetry"


def test_reading_needs_the_secret_too(reading_house: House) -> None:
    for path in ("/", "/graphql", "/admin/billing/months", "/billing"):
        assert reading_house.ask("GET", path).status == 401
