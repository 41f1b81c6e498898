"""People by name: what each role opens, who did what, and that nobody comes in under another one's name."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from click.testing import CliRunner

from spell_billing.cli import main
from spell_billing.core.errors import SettingsError
from spell_billing.core.month import Month
from spell_billing.orchestration.assets.common import ACTOR_TAG
from spell_billing.orchestration.unstable import create_schema
from spell_billing.triggering.queries import BACKFILL
from spell_billing.web.app import description
from spell_billing.web.decisions import ROLES
from spell_billing.web.people import hash_secret, read_people
from spell_billing.web.run_names import LAUNCHING
from spell_billing.web.settings import WebSettings
from spell_billing_tests.web.house import Answer, House, house, serving

VERA, OTTO, ANNA = (f"{name}:{name}-has-a-long-secret" for name in ("vera", "otto", "Anna"))
"""They view, operate and approve."""
HEADER = "X-Forwarded-User"
PROCESS = "/admin/billing/process-monthly"
LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on Error { message } } }"""

RETRIED = """mutation($p: ReexecutionParams) { reexecutePartitionBackfill(reexecutionParams: $p) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on Error { message } } }"""


def lines() -> str:
    roles = {VERA: "view", OTTO: "operate", ANNA: "approve"}
    hashed = [
        f"{name}:{role}:{hash_secret(secret, cost=4)}"
        for given, role in roles.items()
        for name, _, secret in [given.partition(":")]
    ]
    return "\n".join([*hashed, "gil@example.com:operate:proxy"])


@pytest.fixture(scope="module")
def staffed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Serve a house whose people have names; the test itself is a proxy that it trusts."""
    home = tmp_path_factory.mktemp("staffed")
    (home / "billing.db").touch()
    people: dict[str, Any] = {"ADMIN_SECRETS": lines()}
    people |= {"FORWARDED_ALLOW_IPS": "127.0.0.1", "USER_HEADER": HEADER}
    with house(f"sqlite:///{home / 'billing.db'}", home, read_only=False, **people) as opened:
        yield opened


@pytest.fixture(autouse=True)
def later(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let what one test tried wrong be forgotten before the next."""
    yield
    if "staffed" in request.fixturenames:
        request.getfixturevalue("staffed").clock.pass_by(hours=1)


def decide(at: House, name: str, person: str) -> Answer:
    body = {"reason": "r", "drafts_hash": "x"} if name == "approve" else {"reason": "r", "user_id": "u"}
    body |= {"as": "written-off"} if name == "settle" else {}
    return at.ask("POST", f"/admin/billing/months/2025-03/{name}", json.dumps(body), secret=person)


def graphql(at: House, person: str, query: str, **variables: object) -> Answer:
    body = json.dumps({"query": query, "variables": variables})
    return at.ask("POST", "/graphql", body, secret=person, content_type="application/json")


def parameters(*tags: tuple[str, str]) -> dict[str, object]:
    selector = {
        "repositoryLocationName": "spell_billing",
        "repositoryName": "__repository__",
        "jobName": "monthly_billing",
    }
    given = [{"key": key, "value": value} for key, value in [("dagster/partition", "2025-03-01"), *tags]]
    return {"selector": selector, "runConfigData": {}, "executionMetadata": {"tags": given}}


def test_each_role_opens_its_own_doors_and_hears_in_a_sentence_what_the_others_need(staffed: House) -> None:
    for path in ("/billing", "/billing.csv", "/admin/billing/months", "/metrics", "/v1/changes"):
        assert [staffed.ask("GET", path, secret=each).status for each in (VERA, OTTO, ANNA)] == [200] * 3
    assert graphql(staffed, VERA, "{ version }").status == 200
    # 404 and 409: it was let in, and there is nothing to decide.
    statuses = {
        name: [decide(staffed, name, each).status for each in (VERA, OTTO, ANNA)]
        for name in ("hold", "settle", "release", "approve")
    }
    assert statuses == {
        "hold": [403, 404, 404],
        "settle": [403, 404, 404],
        "release": [403, 403, 404],
        "approve": [403, 403, 409],
    }
    refused = [
        staffed.ask("POST", PROCESS, secret=VERA),
        staffed.ask("POST", "/v1/users/u/link", secret=VERA),
        staffed.ask("POST", "/report_asset_materialization/x", secret=VERA),
        graphql(staffed, VERA, LAUNCH, params=parameters()),
    ]
    assert [each.status for each in refused] == [403] * 4
    assert refused[0].json["error"]["message"] == "vera has the role view, and this needs the role operate."
    assert refused[3].json["errors"][0]["message"] == refused[0].json["error"]["message"]
    error = decide(staffed, "release", OTTO).json["error"]
    assert error["message"] == "otto has the role operate, and this needs the role approve."
    assert staffed.instance.get_runs_count() == 0


def test_each_endpoint_is_open_from_the_role_on_that_its_description_names(staffed: House) -> None:
    people = {"view": VERA, "operate": OTTO, "approve": ANNA}
    for path, methods in description("")["paths"].items():
        for method, operation in methods.items():
            roles = [each["adminSecret"] for each in operation.get("security", ()) if "adminSecret" in each]
            # A run that is launched has a test of its own.
            if not roles or path == PROCESS:
                continue
            name = path.rpartition("/")[2]
            address = path.format(month="2025-03", user_id="u")
            statuses = [
                decide(staffed, name, person).status
                if name in ROLES
                else staffed.ask(method.upper(), address, secret=person).status
                for person in people.values()
            ]
            assert [*people][statuses.count(403)] == roles[0][0], path


def test_a_browser_signs_in_by_name_and_sees_what_its_role_may_do(staffed: House) -> None:
    def sign_in(name: str, secret: str) -> Answer:
        body = f"name={quote(name)}&secret={quote(secret)}&next=/billing"
        return staffed.ask("POST", "/login", body, sec_fetch_site="same-origin")

    assert "your name and secret" in staffed.ask("GET", "/login").text
    name, _, secret = OTTO.partition(":")
    cookie = sign_in(name.upper(), secret).headers["set-cookie"].partition(";")[0]
    form = f"decision=release&user_id=u&reason={quote('asked for')}"
    path = "/billing/2025-03/decide"
    refused = staffed.ask("POST", path, form, cookie=cookie, sec_fetch_site="same-origin", accept="text/html")

    assert refused.status == 403
    assert "otto has the role operate, and this needs the role approve" in refused.text
    assert staffed.lines.wait_for(path=path)["who"] == "otto"
    assert staffed.lines.wait_for(path="/login", action="signed in")["who"] == "otto"
    assert staffed.ask("POST", path, form, cookie=cookie, sec_fetch_site="cross-site").status == 403
    wrong = [
        sign_in("otto", "not-the-right-secret"),
        sign_in("nobody", secret),
        sign_in("gil@example.com", ""),
    ]
    assert {(each.status, "do not belong together" in each.text) for each in wrong} == {(401, True)}


def test_a_run_carries_the_name_of_who_launched_it_whatever_the_request_says(staffed: House) -> None:
    forged = parameters((ACTOR_TAG, "somebody else"))
    launched = graphql(staffed, OTTO, LAUNCH, params=forged).json["data"]["launchRun"]
    (run,) = staffed.instance.get_runs()
    assert launched == {"__typename": "LaunchRunSuccess", "run": {"runId": run.run_id}}
    assert run.tags[ACTOR_TAG] == "otto from 127.0.0.1"
    again = """mutation($p: ReexecutionParams) { launchRunReexecution(reexecutionParams: $p) {
      __typename ... on LaunchRunSuccess { run { runId } } ... on Error { message } } }"""
    more = {"parentRunId": run.run_id, "strategy": "ALL_STEPS", "useParentRunTags": True}
    assert graphql(staffed, ANNA, again, p=more).json["data"]["launchRunReexecution"]["run"]
    place = {"repositoryLocationName": "spell_billing", "repositoryName": "__repository__"}
    partition_set = {"partitionSetName": "monthly_billing_partition_set", "repositorySelector": place}
    months = {"selector": partition_set, "partitionNames": ["2025-02-01", "2025-03-01"]}
    backfill = graphql(staffed, OTTO, BACKFILL, params={**months, "tags": []}).json["data"]
    assert backfill["launchPartitionBackfill"]["__typename"] == "LaunchBackfillSuccess"
    (several,) = staffed.instance.get_backfills()
    assert several.tags[ACTOR_TAG] == "otto from 127.0.0.1"
    retried = graphql(staffed, ANNA, RETRIED, p={"parentRunId": several.backfill_id, "strategy": "ALL_STEPS"})
    assert retried.status == 403
    assert "another person's name" in retried.text
    assert len(staffed.instance.get_backfills()) == 1
    within = 'mutation { launchRun(executionParams: {selector: {jobName: "x"}}) { __typename } }'
    fragment = "mutation { ...F } fragment F on Mutation { __typename }"
    default = LAUNCH.replace("ExecutionParams!", "ExecutionParams = {}")
    odd = graphql(staffed, OTTO, LAUNCH, params={"executionMetadata": "x"})
    answers = [graphql(staffed, OTTO, each) for each in (within, fragment, default)]
    assert [each.status for each in (*answers, odd)] == [400] * 4
    for each in staffed.instance.get_runs():
        staffed.instance.delete_run(each.run_id)
    started = staffed.ask("POST", PROCESS, secret=ANNA)
    assert started.status == 202
    (run,) = staffed.instance.get_runs()
    assert (run.run_id, run.tags[ACTOR_TAG]) == (started.json["run_id"], "Anna from 127.0.0.1")
    (entry,) = [
        each
        for each in staffed.ledger.audit_trail(Month.parse("2025-03"))
        if each["action"] == "run_launched"
    ]
    assert entry["actor"] == "Anna from 127.0.0.1"


def test_no_mutation_of_dagsters_launches_a_run_without_a_name() -> None:
    mutations = create_schema().graphql_schema.mutation_type.fields
    launching = {
        name
        for name, field in mutations.items()
        if any(
            f"{each.type}".strip("[]!").endswith(("ExecutionParams", "ReexecutionParams", "BackfillParams"))
            for each in field.args.values()
        )
    }

    assert launching == set(LAUNCHING)


def test_a_named_proxy_says_who_is_signed_in_and_nobody_else_does(staffed: House) -> None:
    def ask(at: House, method: str = "GET", *names: str, **headers: str) -> Answer:
        given = {HEADER.replace("-", "_"): ", ".join(names)} if names else {}
        return at.ask(method, "/billing" if method == "GET" else PROCESS, **given, **headers)

    assert ask(staffed, "GET", "Gil@Example.com", x_forwarded_for="192.0.2.7").status == 200
    line = staffed.lines.wait_for(path="/billing", address="192.0.2.7")
    assert line["who"] == "gil@example.com"
    assert ask(staffed, "POST", "vera", sec_fetch_site="same-origin").status == 403
    assert ask(staffed, "POST", "gil@example.com", sec_fetch_site="cross-site").status == 403
    for names in (("stranger@example.com",), ("vera", "gil@example.com")):
        refused = ask(staffed, "GET", *names)
        assert (refused.status, refused.json["error"]["code"]) == (403, "unknown_person")
    # The secret counts, where one is sent; without either nobody is in.
    assert decide(staffed, "approve", ANNA).status == 409
    assert ask(staffed).status == 401
    with serving(staffed.app, FORWARDED_ALLOW_IPS="192.0.2.1") as address:
        elsewhere = House(**{**vars(staffed), "address": address})
        assert ask(elsewhere, "GET", "gil@example.com").status == 401
    with serving(staffed.app) as address:
        elsewhere = House(**{**vars(staffed), "address": address})
        assert ask(elsewhere, "GET", "gil@example.com").status == 401


def test_a_wrong_secret_of_a_name_is_slowed_down_and_tells_no_names(staffed: House) -> None:
    known = staffed.ask("GET", "/billing", secret="anna:not-the-right-secret")
    unknown = staffed.ask("GET", "/billing", secret="nobody:not-the-right-secret")
    at_proxy = staffed.ask("GET", "/billing", secret="gil@example.com:proxy")
    assert known.status == unknown.status == at_proxy.status == 401
    assert known.body == unknown.body == at_proxy.body
    statuses = [staffed.ask("GET", "/billing", secret="anna:no").status for _ in range(3)]
    assert statuses == [401, 401, 401]
    assert staffed.ask("GET", "/billing", secret=ANNA).status == 429


def test_hash_secret_makes_the_line_of_a_person_without_showing_the_secret() -> None:
    secret = "correct-horse-battery"
    asked = ["hash-secret", "--name", "anna@example.com", "--role", "approve"]
    made = CliRunner().invoke(main, asked, input=f"{secret}\n")
    (person,) = read_people(made.stdout).values()

    assert (person.name, str(person.role)) == ("anna@example.com", "approve")
    assert secret not in made.output
    assert CliRunner().invoke(main, asked, input="short\n").exit_code == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("anna:approve:Vertraulich", "Line 1 of ADMIN_SECRETS is not name:role:hash."),
        ("vera:view:proxy anna:admin:proxy", "Line 2 of ADMIN_SECRETS"),
        ("anna:view:proxy Anna:approve:proxy", "stands twice"),
        ("session:view:proxy", "is no name"),
        (f"anna:view:scrypt.99.{'A' * 43}.{'A' * 43}", "Line 1"),
    ],
)
def test_a_wrong_line_is_named_and_not_shown(text: str, said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        _ = WebSettings({"ADMIN_SECRETS": text}).people
    assert said in str(refused.value)
    assert "Vertraulich" not in str(refused.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"USER_HEADER": HEADER, "ADMIN_SECRETS": "anna:view:proxy"},
        {"USER_HEADER": HEADER, "FORWARDED_ALLOW_IPS": "127.0.0.1"},
        {"USER_HEADER": "Cookie", "FORWARDED_ALLOW_IPS": "127.0.0.1", "ADMIN_SECRETS": "anna:view:proxy"},
    ],
)
def test_a_header_that_lets_nobody_or_anybody_in_stops_the_server(settings: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="USER_HEADER"):
        _ = WebSettings(settings).user_header
