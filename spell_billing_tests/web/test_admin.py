"""`/admin/billing`: a month is started once, whoever asks and however often; its status is the ledger's."""

import json
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import dagster as dg
import pytest

from spell_billing.core.month import Month
from spell_billing.ledger.rows import Actor
from spell_billing.reporting.status import month_status
from spell_billing_tests.proof.small_platform import MARCH, SmallPlatform, bill_march
from spell_billing_tests.web.house import SECRET, Answer, House, house

PROCESS = "/admin/billing/process-monthly"
MONTHS = "/admin/billing/months"


def process(at: House, **order: object) -> Answer:
    return at.admit("POST", PROCESS, json.dumps(order) if order else None)


def runs_of(at: House) -> list[dg.DagsterRun]:
    return list(at.instance.get_runs())


@pytest.mark.both_databases
def test_the_last_closed_month_is_started_through_dagsters_queue(platform_house: House) -> None:
    answer = process(platform_house)
    (run,) = runs_of(platform_house)

    assert answer.status == 202
    assert answer.json == {
        "status": "started",
        "month": "2025-03",
        "run_id": run.run_id,
        "links": {
            "run": f"{platform_house.url}/runs/{run.run_id}",
            "status": f"{platform_house.url}/admin/billing/months/2025-03",
        },
    }
    assert run.status is dg.DagsterRunStatus.QUEUED
    assert run.job_name == "monthly_billing"
    assert run.tags["dagster/partition"] == "2025-03-01"
    assert run.tags["spell_billing/actor"] == "secret from 127.0.0.1"
    assert run.tags["dagster/max_runtime"], "the job's own tags hold as well"
    (entry,) = platform_house.ledger.audit_trail(MARCH)
    assert (entry["action"], entry["actor"], entry["run_id"]) == (
        *("run_launched", "secret from 127.0.0.1", run.run_id),
    )
    line = platform_house.lines.wait_for(path=PROCESS)
    assert line["action"] == f"launched 2025-03 run {run.run_id}"


def test_a_signed_in_person_is_named_by_the_session(shared_house: House) -> None:
    cookie = shared_house.sign_in()
    answer = shared_house.ask(
        "POST", PROCESS, '{"month": "2024-11"}', cookie=cookie, sec_fetch_site="same-origin"
    )
    run = shared_house.instance.get_run_by_id(answer.json["run_id"])

    assert run is not None
    assert run.tags["spell_billing/actor"].startswith("session ")


def test_a_month_whose_run_waits_or_runs_is_not_started_again(platform_house: House) -> None:
    run_id = process(platform_house, month="2025-02").json["run_id"]
    waiting = process(platform_house, month="2025-02")
    platform_house.instance.report_run_canceled(runs_of(platform_house)[0])
    after = process(platform_house, month="2025-02")

    assert waiting.status == 409
    assert waiting.json["status"] == "already_running"
    assert waiting.json["run_id"] == run_id
    assert waiting.json["links"]["run"].endswith(f"/runs/{run_id}")
    assert waiting.json["error"]["code"] == "already_running"
    assert after.status == 202


@pytest.mark.both_databases
def test_many_requests_at_once_at_two_servers_start_one_run(platform: SmallPlatform, tmp_path: Path) -> None:
    with house(platform.url, tmp_path / "both") as one, house(platform.url, tmp_path / "both") as two:
        with ThreadPoolExecutor(12) as threads:
            asked = [threads.submit(process, each, month="2025-03") for each in (one, two) * 6]
        answers = [each.result() for each in asked]

        assert sorted(answer.status for answer in answers) == [202] + [409] * 11
        assert len({answer.json["run_id"] for answer in answers}) == 1
        assert len(runs_of(one)) == 1


def test_a_billed_month_is_said_so_and_is_started_only_to_be_verified(
    platform: SmallPlatform, platform_house: House
) -> None:
    bill_march(platform)
    billed = process(platform_house, month="2025-03")
    verify = process(platform_house, month="2025-03", verify=True)
    (run,) = runs_of(platform_house)

    assert billed.status == 200
    assert billed.json == {
        "status": "already_billed",
        "month": "2025-03",
        "run_id": None,
        "links": {"status": f"{platform_house.url}/admin/billing/months/2025-03"},
    }
    assert verify.status == 202
    assert run.run_config == {"ops": {"stripe_invoices": {"config": {"verify": True}}}}


def test_a_month_that_the_command_line_bills_right_now_is_not_started(platform_house: House) -> None:
    with platform_house.ledger.session(MARCH, Actor("person@host"), wait_seconds=0):
        answer = process(platform_house, month="2025-03")

    assert answer.status == 409
    assert answer.json["run_id"] is None
    assert runs_of(platform_house) == []


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        ('{"month": "2025-04"}', "wrong_month", "2025-04 is not closed: it ends on 2025-04-30 at 24:00 UTC."),
        ('{"month": "2099-01"}', "wrong_month", "not closed"),
        ('{"month": "2023-12"}', "wrong_month", "2023-12 precedes the first billed month, 2024-01."),
        ('{"month": "2025-13"}', "wrong_month", "is not a month"),
        ('{"month": "2025-03-01"}', "wrong_month", "is not a month"),
        ('{"month": ""}', "wrong_month", "is not a month"),
        ('{"month": 202503}', "wrong_body", "month"),
        ('{"mont": "2025-03"}', "wrong_body", "mont"),
        ('{"month": "2025-03", "verify": "yes"}', "wrong_body", "verify"),
        ('["2025-03"]', "wrong_body", "body"),
        ("null", "wrong_body", "body"),
        ("2025-03", "wrong_body", "body"),
        ("{", "wrong_body", "body"),
        (b"\xff\xfe", "wrong_body", "body"),
    ],
)
def test_a_wrong_month_or_body_is_refused_with_the_reason(
    shared_house: House, body: str | bytes, code: str, says: str
) -> None:
    answer = shared_house.admit("POST", PROCESS, body)

    assert answer.status == 422
    assert answer.json["error"]["code"] == code
    assert says in answer.json["error"]["message"]
    assert answer.json["error"]["remedy"]


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", "nonsense"])
def test_a_body_is_read_as_json_whatever_it_is_called(shared_house: House, content_type: str) -> None:
    answer = shared_house.admit("POST", PROCESS, '{"month": "2025-04"}', content_type=content_type)

    assert (answer.status, answer.json["error"]["code"]) == (422, "wrong_month")


@pytest.mark.parametrize("path", [MONTHS, f"{MONTHS}/2025-03", "/health", "/openapi.json", "/billing"])
def test_head_is_answered_as_get_without_the_body(shared_house: House, path: str) -> None:
    answer = shared_house.admit("HEAD", path)

    assert (answer.status, answer.body) == (200, b"")
    assert shared_house.admit("HEAD", f"{MONTHS}/x").status == 422
    assert shared_house.admit("HEAD", PROCESS).status == 405


def test_the_exact_cost_of_a_month_keeps_all_its_digits(platform: SmallPlatform, tmp_path: Path) -> None:
    usage_cents = Decimal("12345678901234567.123456")
    with platform.ledger() as ledger, ledger.session(MARCH, Actor("a run")) as session:
        session.replace_drafts([], usage_version="v0001", calls=1, usage_cents=usage_cents)
    with house(platform.url, tmp_path / "house") as opened:
        answer = opened.admit("GET", f"{MONTHS}/2025-03")

    assert '"usage_cents":12345678901234567.123456,' in answer.text


def test_nothing_is_started_without_the_secret(shared_house: House) -> None:
    before = len(runs_of(shared_house))
    refused = [
        shared_house.ask("POST", PROCESS),
        shared_house.ask("POST", PROCESS, secret=SECRET[:-1]),
        shared_house.ask("POST", f"{PROCESS}?X-Admin-Secret={SECRET}"),
        shared_house.ask("GET", PROCESS),
    ]
    shared_house.clock.pass_by(hours=1)

    assert [answer.status for answer in refused] == [401] * 4
    assert all(answer.json["error"]["remedy"] for answer in refused)
    assert shared_house.admit("GET", PROCESS).status == 405
    assert len(runs_of(shared_house)) == before


def test_the_status_of_a_month_is_what_the_command_line_says_with_the_runs(
    platform: SmallPlatform, platform_house: House
) -> None:
    bill_march(platform)
    run_id = process(platform_house, month="2025-03", verify=True).json["run_id"]
    answer = platform_house.admit("GET", f"{MONTHS}/2025-03")
    status = month_status(platform_house.ledger, MARCH, platform_house.clock()).as_json()

    runs = answer.json["runs"]
    assert (answer.json["review"], answer.json["decisions"]) == (None, [])
    more = {"runs", "review", "decisions"}
    assert {name: value for name, value in answer.json.items() if name not in more} == status
    assert answer.json["invoiced_cents"] == 1734
    assert runs == [
        {
            "id": run_id,
            "status": "QUEUED",
            "actor": "secret from 127.0.0.1",
            "created_at": runs[0]["created_at"],
            "ended_at": None,
            "url": f"{platform_house.url}/runs/{run_id}",
        }
    ]


def test_months_are_listed_from_the_present_back_to_the_first(
    platform: SmallPlatform, platform_house: House
) -> None:
    bill_march(platform)
    platform.draft(Month(2025, 1))
    listed = platform_house.admit("GET", MONTHS).json["months"]

    assert [(each["month"], each["state"]) for each in listed] == [
        ("2025-04", "open"),
        ("2025-03", "billed"),
        ("2025-02", "unbilled"),
        ("2025-01", "unbilled"),
    ]
    assert [each["month"] for each in platform_house.admit("GET", f"{MONTHS}?limit=2").json["months"]] == [
        *("2025-04", "2025-03")
    ]


@pytest.mark.parametrize("limit", ["0", "121", "-1", "1.0", "x", "", "%C2%B2", "9" * 5000])
def test_a_limit_that_is_no_number_of_months_is_refused(shared_house: House, limit: str) -> None:
    answer = shared_house.admit("GET", f"{MONTHS}?limit={limit}")

    assert answer.status == 422
    assert answer.json["error"]["code"] == "wrong_limit"


@pytest.mark.parametrize("month", ["2025-3", "2025-03-01", "x", "0000-01", "%00", "2025-03%20"])
def test_a_path_without_a_month_is_refused(shared_house: House, month: str) -> None:
    assert shared_house.admit("GET", f"{MONTHS}/{month}").status in {400, 422}


def test_links_lead_to_the_public_address_where_there_is_one(sqlite_url: str, tmp_path: Path) -> None:
    public = "https://billing.example.com"
    with house(sqlite_url, tmp_path / "house", SPELL_BILLING_PUBLIC_URL=public) as opened:
        links = process(opened).json["links"]

    assert all(link.startswith(f"{public}/") for link in links.values())


@pytest.mark.parametrize("host", ["example.com/x", "a b", "[", "x@y", "<script>"])
def test_a_malformed_host_is_not_repeated_in_links(shared_house: House, host: str) -> None:
    answer = shared_house.admit("GET", "/openapi.json", host=host)

    assert answer.status == 200
    assert answer.json["servers"] == [{"url": "/"}]


def test_a_workspace_that_did_not_load_is_said_so(sqlite_url: str, tmp_path: Path) -> None:
    with house(sqlite_url, tmp_path / "house", module="spell_billing_tests.web.no_job") as opened:
        answer = process(opened)

        assert answer.status == 503
        assert answer.json["error"]["code"] == "not_launched"
        assert "monthly_billing" in answer.json["error"]["message"]
        assert opened.ledger.audit_trail(MARCH) == []
