"""Every answer has its security headers, and its line in the access log, with no secret in it."""

import json
from pathlib import Path

import pytest
import sqlalchemy as sa

from spell_billing.web.middleware import loggable
from spell_billing_tests.web.house import SECRET, House, house

OUR_PATHS = ("/login", "/logout", "/health", "/admin/billing/months", "/openapi.json", "/metrics", "/billing")
LINE = {"time", "address", "who", "action", "method", "path", "status", "milliseconds", "bytes"}


@pytest.mark.parametrize("path", [*OUR_PATHS, "/u/not-a-token", "/admin/billing/months/x"])
def test_our_own_answers_load_and_keep_nothing(shared_house: House, path: str) -> None:
    for answer in (shared_house.admit("GET", path), shared_house.ask("GET", path)):
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "frame-ancestors 'none'" in policy
        assert "base-uri 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        own = "same-origin" if path in {"/login", "/logout"} else "no-referrer"
        assert answer.headers["referrer-policy"] == own
        assert answer.headers["cache-control"] == "no-store"
        assert "strict-transport-security" not in answer.headers
        assert "server" not in answer.headers


def test_dagsters_pages_keep_their_policy_and_are_framed_by_nobody_else(shared_house: House) -> None:
    page = shared_house.admit("GET", "/")
    picture = shared_house.admit("GET", "/favicon.png")
    data = shared_house.admit("POST", "/graphql", '{"query": "{ version }"}', content_type="application/json")

    assert "script-src 'nonce-" in page.headers["content-security-policy"]
    assert page.headers["content-security-policy"].endswith("; frame-ancestors 'self'")
    assert page.headers["cache-control"] == data.headers["cache-control"] == "no-store"
    assert picture.headers["cache-control"] == "private, no-cache"
    for answer in (page, picture, data):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "SAMEORIGIN"
        assert answer.headers["referrer-policy"] == "same-origin"


def test_each_request_leaves_one_whole_line(shared_house: House) -> None:
    answer = shared_house.admit("GET", "/server_info")
    line = shared_house.lines.wait_for(path="/server_info", who="secret")

    assert set(line) == LINE
    assert line["time"] == shared_house.clock().isoformat(timespec="milliseconds")
    assert line["address"] == "127.0.0.1"
    assert (line["method"], line["status"], line["bytes"]) == ("GET", 200, len(answer.body))
    assert line["milliseconds"] > 0


def test_no_secret_and_no_token_stands_in_the_log(shared_house: House) -> None:
    cookie = shared_house.sign_in()
    shared_house.ask("GET", f"/u/token-of-a-user?x={SECRET}")
    shared_house.ask("GET", "/v1/users/user-0001/invoices?token=token-of-a-user")
    shared_house.ask("GET", "/server_info", secret="a-wrong-secret-of-someone")
    shared_house.ask("GET", f"/login?next=/{SECRET}", cookie=cookie)
    shared_house.clock.pass_by(hours=1)
    shared_house.admit("GET", "/server_info?last=1")
    shared_house.lines.wait_for(path="/server_info", who="secret")
    text = "\n".join(shared_house.lines.texts)

    for hidden in (SECRET, "token-of-a-user", "a-wrong-secret", cookie.partition("=")[2]):
        assert hidden not in text
    assert '"path":"/u/***"' in text


def test_a_path_cannot_forge_a_line(shared_house: House) -> None:
    shared_house.ask("GET", '/x%0a{"who":"secret"}%22,%22who%22:%22secret%22')
    shared_house.lines.wait_for(status=400)

    assert all("\n" not in text and json.loads(text) for text in shared_house.lines.texts)
    assert loggable("/\udcff" + "x" * 600) == "/?" + "x" * 498


def test_an_error_tells_a_stranger_nothing_of_the_machine(sqlite_url: str, tmp_path: Path) -> None:
    with house(sqlite_url, tmp_path / "house") as opened:
        with opened.ledger.writing() as connection:
            connection.execute(sa.text("DROP TABLE ledger_months"))
        answers = [
            opened.admit("GET", "/admin/billing/months"),
            opened.admit("GET", "/billing", accept="text/html"),
        ]

    for answer in answers:
        assert answer.status == 503
        assert "ledger_months" not in answer.text
        assert str(tmp_path) not in answer.text
        assert "Traceback" not in answer.text
    assert answers[0].json["error"]["code"] == "not_available"
    assert "<h1>" in answers[1].text


def test_health_says_whether_the_ledger_answers_and_nothing_else(sqlite_url: str, tmp_path: Path) -> None:
    with house(sqlite_url, tmp_path / "house") as opened:
        well = opened.ask("GET", "/health")
        assert (well.status, well.json) == (200, {"status": "ok"})
        assert opened.ask("HEAD", "/health").status == 200
        assert opened.ask("POST", "/health").status == 405

    path = Path(sqlite_url.removeprefix("sqlite:///"))
    with house(sqlite_url, tmp_path / "house") as opened:
        opened.ledger.close()
        path.rename(path.with_name("away.db"))
        path.mkdir()
        ill = opened.ask("GET", "/health")

    assert (ill.status, ill.json) == (503, {"status": "unavailable"})
