"""Signing in and out: the cookie, wrong secrets, forms that other sites send."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import pytest

from spell_billing.web.login import Sessions, local_path
from spell_billing_tests.web.house import NOW, SECRET, Answer, House, house

SAME = "same-origin"


def sign_in(at: House, secret: str = SECRET, wanted: str = "/", **headers: str) -> Answer:
    body = f"secret={quote(secret)}&next={quote(wanted, safe='')}"
    headers = headers or {"sec_fetch_site": SAME}
    return at.ask("POST", "/login", body, content_type="application/x-www-form-urlencoded", **headers)


@pytest.fixture(scope="module")
def https_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    home = tmp_path_factory.mktemp("https")
    database = home / "billing.db"
    database.touch()
    public = "https://billing.example.com"
    with house(f"sqlite:///{database}", home, SPELL_BILLING_PUBLIC_URL=public) as opened:
        yield opened


@pytest.fixture(autouse=True)
def later(shared_house: House) -> Iterator[None]:
    """Let what one test tried wrong be forgotten before the next."""
    yield
    shared_house.clock.now = max(shared_house.clock.now, NOW)
    shared_house.clock.pass_by(hours=1)


def test_the_secret_signs_a_browser_in_and_leads_back_to_the_page(shared_house: House) -> None:
    answer = sign_in(shared_house, wanted="/runs?q=a%26b")
    cookie = answer.headers["set-cookie"]

    assert answer.status == 303
    assert answer.headers["location"] == "/runs?q=a%26b"
    assert {part.strip() for part in cookie.split(";")[1:]} == {
        *("HttpOnly", "Max-Age=43200", "Path=/", "SameSite=lax")
    }
    assert SECRET not in cookie
    assert shared_house.ask("GET", "/server_info", cookie=cookie.partition(";")[0]).status == 200
    line = shared_house.lines.wait_for(path="/login", action="signed in")
    assert line["who"].startswith("session ")
    assert shared_house.lines.wait_for(path="/server_info")["who"] == line["who"]


def test_behind_https_the_cookie_is_secure_and_bound_to_the_host(https_house: House) -> None:
    answer = sign_in(https_house, origin="https://billing.example.com")
    cookie = answer.headers["set-cookie"]

    assert cookie.startswith("__Host-spell_billing_session=")
    assert "; Secure" in cookie
    assert answer.headers["strict-transport-security"] == "max-age=31536000"
    assert https_house.ask("GET", "/server_info", cookie=cookie.partition(";")[0]).status == 200


def test_a_session_ends_after_twelve_hours(shared_house: House) -> None:
    cookie = shared_house.sign_in()
    shared_house.clock.pass_by(hours=11, minutes=59)
    before = shared_house.ask("GET", "/server_info", cookie=cookie).status
    shared_house.clock.pass_by(minutes=1)

    assert before == 200
    assert shared_house.ask("GET", "/server_info", cookie=cookie).status == 401


def test_signing_out_ends_the_session_although_the_cookie_is_kept(shared_house: House) -> None:
    cookie, other = shared_house.sign_in(), shared_house.sign_in()
    shown = shared_house.ask("GET", "/logout", cookie=cookie)
    answer = shared_house.ask("POST", "/logout", cookie=cookie, sec_fetch_site=SAME)

    assert "This browser is signed in." in shown.text
    assert answer.status == 303
    assert 'spell_billing_session=""' in answer.headers["set-cookie"]
    assert shared_house.ask("GET", "/server_info", cookie=cookie).status == 401
    assert shared_house.ask("GET", "/server_info", cookie=other).status == 200
    assert shared_house.lines.wait_for(path="/logout", method="POST")["action"] == "signed out"


def test_a_cookie_of_another_servers_secret_is_worth_nothing(shared_house: House, tmp_path: Path) -> None:
    database = tmp_path / "other.db"
    database.touch()
    cookie = shared_house.sign_in()
    with house(f"sqlite:///{database}", tmp_path, ADMIN_SECRET="another-secret-of-tests") as other:
        assert other.ask("GET", "/server_info", cookie=cookie).status == 401


@pytest.mark.parametrize("change", ["", "x", "tail", "cut"])
def test_a_changed_cookie_is_worth_nothing(shared_house: House, change: str) -> None:
    name, _, value = shared_house.sign_in().partition("=")
    changed = {"": "", "x": f"x{value}", "tail": f"{value}x", "cut": value[:-3]}[change]

    assert shared_house.ask("GET", "/server_info", cookie=f"{name}={changed}").status == 401


def test_a_wrong_secret_is_said_so_on_the_page(shared_house: House) -> None:
    answer = sign_in(shared_house, "<b>not it</b>", wanted="/runs")

    assert answer.status == 401
    assert "That is not the secret." in answer.text
    assert 'value="/runs"' in answer.text
    assert "not it" not in answer.text.replace("not the secret", "")
    assert "set-cookie" not in answer.headers
    assert shared_house.lines.wait_for(path="/login", status=401)["action"] == "wrong secret"


def test_wrong_secrets_are_slowed_down_on_both_doors_together(shared_house: House) -> None:
    first = [shared_house.ask("GET", "/server_info", secret="not-it").status for _ in range(3)]
    first += [sign_in(shared_house, "not-it").status for _ in range(3)]
    page, header = sign_in(shared_house), shared_house.admit("GET", "/server_info")

    assert first == [401] * 6
    assert (page.status, page.headers["retry-after"]) == (429, "1")
    assert "Wait 1 s, then try again." in page.text
    assert (header.status, header.json["error"]["code"]) == (429, "too_many_tries")
    assert shared_house.lines.wait_for(status=429)["action"] == "secret tried too soon"
    shared_house.clock.pass_by(seconds=1)
    assert sign_in(shared_house).status == 303, "after the pause the right secret opens"


def test_a_signed_in_browser_is_not_held_up_by_wrong_tries_from_its_address(shared_house: House) -> None:
    cookie = shared_house.sign_in()
    for _ in range(10):
        shared_house.ask("GET", "/server_info", secret="not-it")

    assert shared_house.ask("GET", "/server_info", cookie=cookie).status == 200


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"sec_fetch_site": "same-origin", "origin": "null"}, True),
        ({"sec_fetch_site": "same-origin"}, True),
        ({"origin": "ours"}, True),
        ({"sec_fetch_site": "same-site", "origin": "ours"}, False),
        ({"sec_fetch_site": "cross-site", "origin": "null"}, False),
        ({"sec_fetch_site": "none"}, False),
        ({"sec_fetch_site": "same-origin", "origin": "https://example.com"}, False),
        ({"origin": "https://example.com"}, False),
        ({"origin": "null"}, False),
        ({"origin": "http://["}, False),
        ({"accept": "*/*"}, False),
    ],
)
def test_no_other_site_acts_in_the_name_of_a_signed_in_person(
    shared_house: House, headers: dict[str, str], *, allowed: bool
) -> None:
    cookie = shared_house.sign_in()
    sent = {name: shared_house.url if value == "ours" else value for name, value in headers.items()}
    graphql = shared_house.ask(
        "POST", "/graphql", '{"query": "{ version }"}', cookie=cookie, content_type="application/json", **sent
    )
    admin = shared_house.ask("POST", "/admin/billing/process-monthly", '{"x": 1}', cookie=cookie, **sent)

    assert graphql.status == (200 if allowed else 403)
    assert admin.status == (422 if allowed else 403)
    assert sign_in(shared_house, **sent).status == (303 if allowed else 403)
    assert shared_house.ask("POST", "/logout", cookie=cookie, **sent).status == (303 if allowed else 403)


@pytest.mark.parametrize(
    ("wanted", "path"),
    [
        ("/", "/"),
        ("/runs/1?x=%2F#part", "/runs/1?x=%2F#part"),
        ("//example.com", "/"),
        ("https://example.com", "/"),
        ("/\\example.com", "/"),
        ("\\\\example.com", "/"),
        ("/\t/example.com", "/"),
        ("javascript:alert(1)", "/"),
        ("runs", "/"),
        ("", "/"),
        ("http://[", "/"),
    ],
)
def test_signing_in_leads_nowhere_but_to_this_server(wanted: str, path: str) -> None:
    assert local_path(wanted) == path


def test_the_page_escapes_where_it_leads_back_to(shared_house: House) -> None:
    answer = shared_house.ask("GET", "/login?next=/%22%3E%3Cscript%3E")

    assert "<script>" not in answer.text
    assert 'value="/&#34;&gt;&lt;script&gt;"' in answer.text


@pytest.mark.parametrize("body", ["", "&" * 50, "secret=%ff%fe", "a=1&b=2&c=3&d=4&e=5&f=6", "{}"])
def test_a_malformed_form_signs_nobody_in(shared_house: House, body: str) -> None:
    assert shared_house.ask("POST", "/login", body, sec_fetch_site=SAME).status == 401


def test_pages_are_in_english_for_every_screen_and_load_nothing(shared_house: House) -> None:
    for path in ("/login", "/logout"):
        text = shared_house.ask("GET", path).text
        assert '<html lang="en">' in text
        assert 'name="viewport"' in text
        assert "prefers-color-scheme: dark" in text
        assert "<script" not in text
        assert "http" not in text


def test_a_session_that_was_signed_out_does_not_live_again_after_a_restart() -> None:
    key, now = b"k" * 32, datetime(2026, 11, 1, tzinfo=UTC)
    before = Sessions(key, lambda: now)
    session, cookie = before.begin()
    assert before.read(cookie) == session
    before.end(session)
    assert before.read(cookie) is None
    assert Sessions(key, lambda: now).read(cookie) is None
