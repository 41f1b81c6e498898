"""Approve, hold, release and settle over HTTP: as on the command line, by a program or a signed-in person."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from spell_billing.core.outcomes import Reason, State
from spell_billing.ledger.queries import drafts_hash
from spell_billing.ledger.reviews import write_review
from spell_billing.ledger.rows import Actor
from spell_billing.web.people import hash_secret
from spell_billing_tests.proof.small_platform import MARCH, SmallPlatform
from spell_billing_tests.web.house import Answer, House, house

MONTH = "/admin/billing/months/2025-03"
TEXT = "20 of 20 users have lost rows."
FINDING = {"code": "past_changed", "text": TEXT, "data": {"users": 20}}
NOW = datetime(2025, 4, 1, tzinfo=UTC)


@pytest.fixture
def drafted(platform: SmallPlatform) -> SmallPlatform:
    """Give a platform with three users' drafts for March, of whom the last has no account."""
    platform.accounts("user-0001", "user-0002")
    platform.calls(MARCH, ("user-0001", 1000), ("user-0002", 500), ("user-0003", 70))
    platform.draft(MARCH, freeze=False)
    return platform


@pytest.fixture
def in_review(drafted: SmallPlatform, tmp_path: Path) -> Iterator[House]:
    """Serve it, in review."""
    review(drafted)
    store = str(drafted.store_path)
    with house(drafted.url, tmp_path / "house", SPELL_BILLING_USAGE_STORE=store) as opened:
        yield opened


def review(platform: SmallPlatform, *, approvals_needed: int = 1) -> None:
    with platform.ledger() as ledger, ledger.writing() as connection:
        found = drafts_hash(connection, MARCH)
        many = {"approvals_needed": approvals_needed}
        write_review(connection, MARCH, drafts_hash=found, findings=[FINDING], now=NOW, **many)


def ask(at: House, decision: str, **body: Any) -> Answer:
    return at.admit("POST", f"{MONTH}/{decision}", json.dumps(body))


def shown(at: House) -> Any:
    return at.admit("GET", MONTH).json


def actors(at: House, action: str) -> list[tuple[str, str | None]]:
    return [
        (entry["actor"], entry["detail"])
        for entry in at.ledger.audit_trail(MARCH)
        if entry["action"] == action
    ]


def test_a_month_in_review_is_approved_as_it_was_seen_once(in_review: House) -> None:
    before = shown(in_review)
    assert before["state"] == "in_review"
    assert before["review"]["findings"] == [FINDING]
    assert before["review"]["needs_approval"]
    assert before["review"]["approval"] is None

    body = {"drafts_hash": before["review"]["drafts_hash"], "reason": "agreed with finance"}
    answers = [ask(in_review, "approve", **body) for _ in range(2)]

    assert [answer.status for answer in answers] == [200, 200]
    after = shown(in_review)
    assert after["state"] == "unbilled"
    assert after["review"]["approval"]["actor"] == "secret from 127.0.0.1"
    assert [each["kind"] for each in after["decisions"]] == ["approved"]
    assert actors(in_review, "approved") == [("secret from 127.0.0.1", "agreed with finance")]


def test_drafts_that_changed_since_they_were_seen_are_not_approved(
    in_review: House, drafted: SmallPlatform
) -> None:
    seen = shown(in_review)["review"]["drafts_hash"]
    drafted.calls(MARCH, ("user-0002", 9000))
    drafted.draft(MARCH, run_id="again")

    unreviewed = ask(in_review, "approve", drafts_hash=seen, reason="fine")
    review(drafted)
    stale = ask(in_review, "approve", drafts_hash=seen, reason="fine")

    for answer, words in (
        (unreviewed, "has no drafts that were reviewed"),
        (stale, "are not those that you looked at"),
    ):
        assert answer.status == 409
        assert answer.json["error"]["code"] == "not_possible_now"
        assert words in answer.json["error"]["message"]
    assert actors(in_review, "approved") == []


def test_one_user_s_bill_is_held_and_released_and_so_are_all(in_review: House) -> None:
    held = ask(in_review, "hold", user_id="user-0001", reason="asked to wait")
    assert (held.status, held.json["bills"]) == (200, 1)
    bill = in_review.ledger.bills_of_user(MARCH, "user-0001")[-1]
    assert (bill.state, bill.reason) == (State.HELD, Reason.HELD_BY_PERSON)

    released = ask(in_review, "release", user_id="user-0001", reason="settled")
    assert (released.status, released.json["bills"]) == (200, 1)
    assert in_review.ledger.bills_of_user(MARCH, "user-0001")[-1].state is State.PLANNED
    again = ask(in_review, "release", user_id="user-0001", reason="settled")
    assert (again.status, again.json["error"]["code"]) == (409, "not_possible_now")

    assert ask(in_review, "hold", all=True, reason="wait").json["bills"] == 2
    assert ask(in_review, "release", all=True, reason="go").status == 200
    states = {bill.user_id: bill.state for bill in in_review.ledger.bills(MARCH, set(State))}
    assert states == {"user-0001": State.PLANNED, "user-0002": State.PLANNED, "user-0003": State.FAILED}


def test_a_failed_bill_is_settled_without_asking_stripe(drafted: SmallPlatform, tmp_path: Path) -> None:
    drafted.bill(MARCH)
    requests = len(drafted.double.requests)
    with house(drafted.url, tmp_path / "house") as at:
        body = {"user_id": "user-0003", "as": "billed-by-hand", "reason": "invoice 17 of the old system"}
        answer = ask(at, "settle", **body)

        assert answer.status == 200, answer.text
        assert answer.json["state"] == "settled"
        assert shown(at)["state"] == "billed"
        said = "billed-by-hand: invoice 17 of the old system"
        assert actors(at, "settled") == [("secret from 127.0.0.1", said)]
    assert len(drafted.double.requests) == requests


@pytest.mark.parametrize(
    ("decision", "body", "status"),
    [
        ("approve", {"reason": "x"}, 422),
        ("approve", {"drafts_hash": "0" * 64, "reason": " "}, 422),
        ("approve", {"drafts_hash": "0" * 64, "reason": "a\x00b"}, 422),
        ("approve", {"drafts_hash": "0" * 64, "reason": "x" * 501}, 422),
        ("approve", {"drafts_hash": "0" * 64, "reason": "x"}, 409),
        ("hold", {"reason": "x"}, 422),
        ("hold", {"user_id": "user-0001", "all": True, "reason": "x"}, 422),
        ("hold", {"user_id": "user-0009", "reason": "x"}, 404),
        ("release", {"user_id": "user-0001", "reason": "x"}, 409),
        ("settle", {"user_id": "user-0001", "reason": "x"}, 422),
        ("settle", {"user_id": "user-0001", "as": "paid", "reason": "x"}, 422),
        ("settle", {"user_id": "user-0001", "as": "written-off", "credit": "usd", "reason": "x"}, 422),
        ("settle", {"user_id": "user-0001", "as": "written-off", "reason": "x"}, 409),
        ("settle", {"user_id": "user-0001", "credit": "usd", "reason": "x"}, 409),
        ("settle", {"user_id": "user-0009", "as": "written-off", "reason": "x"}, 404),
        ("hold", {"user_id": "user-0001", "reason": "x", "more": 1}, 422),
    ],
)
def test_what_cannot_be_done_says_so_and_changes_nothing(
    in_review: House, decision: str, body: dict[str, Any], status: int
) -> None:
    before = in_review.ledger.audit_trail(MARCH)

    answer = ask(in_review, decision, **body)

    assert answer.status == status, answer.text
    assert answer.json["error"]["message"].endswith(".")
    assert answer.json["error"]["remedy"]
    assert in_review.ledger.audit_trail(MARCH) == before


def test_a_month_that_a_run_is_at_waits(in_review: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spell_billing.invoicing.review._WAIT_SECONDS", 0.1)
    with in_review.ledger.session(MARCH, Actor("a run")):
        answer = ask(in_review, "hold", all=True, reason="wait")
    assert (answer.status, answer.json["error"]["code"]) == (409, "month_is_locked")


def form(at: House, cookie: str, site: str = "same-origin", **fields: str) -> Answer:
    return at.ask(
        *("POST", "/billing/2025-03/decide", urlencode(fields)),
        cookie=cookie,
        sec_fetch_site=site,
        accept="text/html",
    )


def test_the_page_shows_what_was_found_and_its_form_approves_it_for_the_person(
    in_review: House, drafted: SmallPlatform
) -> None:
    cookie = in_review.sign_in()
    alone = in_review.ask("GET", "/billing/2025-03", cookie=cookie).text
    assert "--against" not in alone, "there is no month to compare with"
    drafted.draft(MARCH.previous())
    page = in_review.ask("GET", "/billing/2025-03", cookie=cookie).text
    assert TEXT in page
    assert "spell-billing preview --month 2025-03 --against 2025-02" in page
    seen = shown(in_review)["review"]["drafts_hash"]
    assert f'name="drafts_hash" value="{seen}"' in page
    fields = {"decision": "approve", "drafts_hash": seen, "reason": "checked <b>"}

    elsewhere = form(in_review, cookie, site="cross-site", **fields)
    stranger = form(in_review, "", **fields)
    assert (elsewhere.status, stranger.status) == (403, 401)
    assert actors(in_review, "approved") == []
    done = form(in_review, cookie, **fields)

    assert (done.status, done.headers["location"]) == (303, "/billing/2025-03?done=approve")
    ((actor, reason),) = actors(in_review, "approved")
    assert actor.startswith("session ")
    assert reason == "checked <b>"
    after = in_review.ask("GET", done.headers["location"], cookie=cookie).text
    assert "Approved. The next billing run sends the month." in after
    assert "checked &lt;b&gt;" in after
    assert "Approve these drafts" not in after


def test_a_form_with_a_stale_hash_or_no_reason_is_a_page_that_says_so(in_review: House) -> None:
    cookie = in_review.sign_in()
    stale = form(in_review, cookie, decision="approve", drafts_hash="0" * 64, reason="x")
    assert stale.status == 409
    assert "are not those that you looked at" in stale.text
    empty = form(in_review, cookie, decision="hold", all="true", reason="  ")
    assert empty.status == 422
    other = form(in_review, cookie, decision="forget", reason="x")
    assert other.status == 422
    assert actors(in_review, "approved") + actors(in_review, "held") == []


def test_a_user_s_page_holds_and_releases_that_bill(in_review: House) -> None:
    cookie = in_review.sign_in()
    path = "/billing/2025-03/users/user-0001"
    assert "Hold this bill" in in_review.ask("GET", path, cookie=cookie).text
    held = form(in_review, cookie, decision="hold", user_id="user-0001", reason="wait")
    assert held.headers["location"] == f"{path}?done=hold"
    page = in_review.ask("GET", path, cookie=cookie).text
    assert "Release this bill" in page
    assert "Hold this bill" not in page
    form(in_review, cookie, decision="release", user_id="user-0001", reason="go")
    assert in_review.ledger.bills_of_user(MARCH, "user-0001")[-1].state is State.PLANNED


def test_a_reading_server_shows_no_form_and_takes_none(drafted: SmallPlatform, tmp_path: Path) -> None:
    review(drafted)
    store = str(drafted.store_path)
    with house(drafted.url, tmp_path / "house", read_only=True, SPELL_BILLING_USAGE_STORE=store) as at:
        cookie = at.sign_in()
        for path in ("/billing/2025-03", "/billing/2025-03/users/user-0001"):
            page: str = at.ask("GET", path, cookie=cookie).text
            assert 'method="post" action="/billing' not in page
        assert shown(at)["review"]["findings"] == [FINDING]
        assert form(at, cookie, decision="hold", all="true", reason="x").status == 403
        for decision in ("approve", "hold", "release", "settle"):
            assert ask(at, decision, reason="x", all=True).status == 403


def test_two_different_people_approve_where_two_must(drafted: SmallPlatform, tmp_path: Path) -> None:
    review(drafted, approvals_needed=2)
    names = ("anna", "ben")
    secrets = {name: f"{name}-has-a-long-secret" for name in names}
    lines = [f"{name}:approve:{hash_secret(secrets[name], cost=4)}" for name in names]
    store = str(drafted.store_path)
    with house(
        drafted.url, tmp_path / "house", SPELL_BILLING_USAGE_STORE=store, ADMIN_SECRETS=" ".join(lines)
    ) as at:
        before = shown(at)
        body = {"drafts_hash": before["review"]["drafts_hash"], "reason": "agreed"}

        def approve(name: str) -> Answer:
            return at.ask("POST", f"{MONTH}/approve", json.dumps(body), secret=f"{name}:{secrets[name]}")

        nobody = ask(at, "approve", **body)
        first, again = approve("anna"), approve("anna")
        page = at.admit("GET", "/billing/2025-03").text
        half = shown(at)
        second = approve("ben")

        assert (before["review"]["approvals_needed"], before["review"]["approvals_missing"]) == (2, 2)
        assert (nobody.status, nobody.json["error"]["message"]) == (
            409,
            "2025-03 needs the approval of 2 people, each by name.",
        )
        assert (first.json["approvals_missing"], again.json["approvals_missing"]) == (1, 1)
        assert "until 2 people approve these findings; 1 more must." in page
        assert (half["state"], half["review"]["approval"]) == ("in_review", None)
        assert [each["kind"] for each in half["decisions"]] == ["agreed"]
        assert "approvals_missing" not in second.json
        assert shown(at)["state"] == "unbilled"
        assert actors(at, "agreed") == [("anna from 127.0.0.1", "agreed")]
        assert actors(at, "approved") == [("ben from 127.0.0.1", "agreed")]


def test_an_approval_of_nobodys_name_counts_no_more_once_two_people_must(
    drafted: SmallPlatform, tmp_path: Path
) -> None:
    review(drafted)
    secret = "anna-has-a-long-secret"
    store = str(drafted.store_path)
    line = f"anna:approve:{hash_secret(secret, cost=4)}"
    with house(drafted.url, tmp_path / "house", SPELL_BILLING_USAGE_STORE=store, ADMIN_SECRETS=line) as at:
        body = {"drafts_hash": shown(at)["review"]["drafts_hash"], "reason": "agreed"}
        assert ask(at, "approve", **body).status == 200

        review(drafted, approvals_needed=2)
        by_name = at.ask("POST", f"{MONTH}/approve", json.dumps(body), secret=f"anna:{secret}")

        assert by_name.json["approvals_missing"] == 1
        assert shown(at)["state"] == "in_review"
