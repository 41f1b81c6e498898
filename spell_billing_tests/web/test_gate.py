"""Nothing is reached without the secret or a session, whatever the path, its spelling, or the way in."""

import json

import pytest
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from spell_billing_tests.web.house import SECRET, House

OPEN = {"/login", "/logout", "/stripe/webhook", "/health"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
MONTH = "/admin/billing/months/2025-03"
OURS = (
    *("/metrics", "/openapi.json", "/admin/billing/months", "/admin/billing/process-monthly", MONTH),
    *(f"{MONTH}/{decision}" for decision in ("approve", "hold", "release", "settle")),
    "/billing/2025-03/decide",
)
ODD_SPELLINGS = (
    *("/graphql/", "//graphql", "/%67raphql", "/GRAPHQL", "/graphql.", "/graphql%2f", "/./graphql"),
    *("/login/../graphql", "/login/", "//login", "/login%2f..%2fgraphql", "/LOGIN", "/login;/graphql"),
    *("/health/../graphql", "/health/x", "/logout/graphql", "/stripe/webhook/../../graphql"),
    *("/u/../graphql", "/u/%2e%2e/graphql", "/u/..%2fgraphql", "/u//graphql", "/u", "/U/x", "/u/x"),
    *("/v1/users/../../graphql", "/v1/users/user-0001/invoices", "/v1/users/user-0001/invoices/"),
    *(
        "/graphql?token=x",
        "/graphql%00",
        "/graphql%0a",
        "/login%0a",
        "/login%00/graphql",
        "/login%3f/graphql",
    ),
    *("/\\graphql", "/login\\..\\graphql", "http://example.com/graphql", "/logs/a/b.err", "/.env", "/%"),
)
QUESTION = json.dumps({"query": "{ version }"})


def paths_of(routes: list[BaseRoute]) -> list[str]:
    """Give one real path for each of an app's routes."""
    paths = []
    for route in routes:
        if isinstance(route, Route | WebSocketRoute):
            paths.append(route.path.replace("{path:path}", "a/b.err").replace("{", "").replace("}", ""))
        elif isinstance(route, Mount):
            paths.append(f"{route.path}/file.js")
    return paths


def test_every_route_of_dagster_needs_the_secret(shared_house: House) -> None:
    paths = paths_of(shared_house.dagster_app.routes)

    assert {"/graphql", "/server_info", "/download_debug/run_id:str", "/"} <= set(paths), "Dagster has moved"
    for path in (*paths, *OURS):
        for method in METHODS:
            answer = shared_house.ask(method, path)
            assert answer.status == 401, f"{method} {path}: {answer.status}"
            if method != "HEAD":
                assert answer.json["error"]["code"] == "no_secret"


@pytest.mark.parametrize("path", ODD_SPELLINGS)
def test_no_odd_spelling_leads_past_the_gate(shared_house: House, path: str) -> None:
    for method in ("GET", "HEAD", "POST", "OPTIONS"):
        answer = shared_house.ask(method, path, QUESTION, content_type="application/json")

        assert answer.status in {400, 401, 403, 404, 405}, f"{method} {path}: {answer.status}"
        assert b"<!DOCTYPE html><html" not in answer.body, "Dagster's page"
        assert b'"data"' not in answer.body, "GraphQL has answered"


def test_an_odd_spelling_with_the_secret_does_not_get_around_the_rules_for_graphql(
    shared_house: House,
) -> None:
    mutation = "/graphql%0a?query=mutation%7BreloadWorkspace%7B__typename%7D%7D"

    assert shared_house.admit("GET", mutation).status == 400
    for path in ("/graphql/", "//graphql", "/GRAPHQL"):
        assert (
            b'"data"' not in shared_house.admit("POST", path, QUESTION, content_type="application/json").body
        )


def test_the_secret_opens_dagster_and_our_endpoints(shared_house: House) -> None:
    answer = shared_house.admit("POST", "/graphql", QUESTION, content_type="application/json")

    assert answer.json["data"]["version"]
    assert shared_house.admit("GET", "/").text.startswith("<!DOCTYPE html>")
    assert shared_house.admit("GET", "/metrics").status == 200
    assert shared_house.admit("GET", "/runs/some-run").status == 200


@pytest.mark.parametrize("secret", ["", "not-it", SECRET[:-1], SECRET + "x", SECRET.upper(), f"{SECRET}\xe9"])
def test_a_wrong_secret_opens_nothing(shared_house: House, secret: str) -> None:
    answer = shared_house.ask("GET", "/graphql", secret=secret)
    shared_house.clock.pass_by(hours=1)

    assert answer.status == 401
    assert answer.json["error"]["code"] == "wrong_secret"
    assert secret == "" or secret not in answer.text


def test_the_secret_is_taken_from_its_header_alone(shared_house: House) -> None:
    assert shared_house.ask("GET", f"/server_info?X-Admin-Secret={SECRET}").status == 401
    assert shared_house.ask("GET", "/server_info", authorization=f"Bearer {SECRET}").status == 401
    assert shared_house.ask("GET", "/server_info", cookie=f"spell_billing_session={SECRET}").status == 401


def test_two_secrets_in_one_request_are_none(shared_house: House) -> None:
    both = f"GET /server_info HTTP/1.1\r\nHost: x\r\nX-Admin-Secret: {SECRET}\r\nX-Admin-Secret: {SECRET}\r\n"
    import socket  # noqa: PLC0415 - no client sends this

    with socket.create_connection(shared_house.address, timeout=10) as connection:
        connection.sendall(f"{both}Connection: close\r\n\r\n".encode())
        assert connection.makefile("rb").readline().split()[1] == b"401"
    shared_house.clock.pass_by(hours=1)


def test_a_wrong_header_is_not_saved_by_a_session(shared_house: House) -> None:
    cookie = shared_house.sign_in()

    assert shared_house.ask("GET", "/server_info", cookie=cookie).status == 200
    assert shared_house.ask("GET", "/server_info", cookie=cookie, secret="wrong").status == 401
    shared_house.clock.pass_by(hours=1)


def websocket_status(house: House, path: str = "/graphql", **headers: str) -> int:
    """Give 101 when a websocket opens, else the status of the refusal."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    url = f"{house.url.replace('http', 'ws', 1)}{path}"
    try:
        with connect(url, additional_headers=named, subprotocols=["graphql-ws"], proxy=None) as websocket:  # type: ignore[list-item]
            websocket.send(json.dumps({"type": "connection_init"}))
            assert json.loads(websocket.recv(timeout=10))["type"] == "connection_ack"
    except InvalidStatus as error:
        return error.response.status_code
    return 101


def test_the_websocket_needs_the_secret(shared_house: House) -> None:
    for path in ("/graphql", "/login", "/health", "/u/x", "/", "/anything"):
        assert websocket_status(shared_house, path) == 403
    assert websocket_status(shared_house, x_admin_secret="wrong") == 403
    shared_house.clock.pass_by(hours=1)
    assert websocket_status(shared_house, x_admin_secret=SECRET) == 101


def test_a_signed_in_browser_opens_the_websocket_from_our_pages_only(shared_house: House) -> None:
    cookie = shared_house.sign_in()

    assert websocket_status(shared_house, cookie=cookie, origin=shared_house.url) == 101
    assert websocket_status(shared_house, cookie=cookie, origin="https://example.com") == 403
    assert websocket_status(shared_house, cookie=cookie, origin="null") == 403
    assert websocket_status(shared_house, cookie=cookie) == 403


def test_no_mutation_runs_over_the_websocket(shared_house: House) -> None:
    url = f"{shared_house.url.replace('http', 'ws', 1)}/graphql"
    headers = {"X-Admin-Secret": SECRET}
    with connect(url, additional_headers=headers, subprotocols=["graphql-ws"], proxy=None) as websocket:  # type: ignore[list-item]
        mutation = "mutation { setNuxSeen }"
        websocket.send(json.dumps({"type": "start", "id": "1", "payload": {"query": mutation}}))
        answer = json.loads(websocket.recv(timeout=10))

    assert answer["type"] == "error", answer


@pytest.mark.parametrize(
    ("method", "path", "body", "content_type"),
    [
        ("GET", "/graphql?query=mutation%7BsetNuxSeen%7D", None, ""),
        ("GET", "/graphql?query=%7Bversion%7D", None, ""),
        ("HEAD", "/graphql?query=%7Bversion%7D", None, ""),
        ("POST", "/graphql?query=mutation%7BsetNuxSeen%7D", "a=b", "application/x-www-form-urlencoded"),
        ("POST", "/graphql?query=mutation%7BsetNuxSeen%7D", "", "text/plain"),
        ("POST", "/graphql", "mutation{setNuxSeen}", "application/graphql"),
        ("PUT", "/graphql", QUESTION, "application/json"),
    ],
)
def test_graphql_is_asked_in_json_by_post_only(
    shared_house: House, method: str, path: str, body: str | None, content_type: str
) -> None:
    answer = shared_house.admit(method, path, body, content_type=content_type)

    assert answer.status in {405, 415}


@pytest.mark.parametrize(
    "body", ["", "[]", "[1]", "{}", '{"query": 1}', "null", "{", '{"query": "mutation {"}']
)
def test_a_body_that_is_no_query_is_refused(shared_house: House, body: str) -> None:
    assert shared_house.admit("POST", "/graphql", body, content_type="application/json").status == 400


def test_the_page_for_trying_queries_is_shown(shared_house: House) -> None:
    answer = shared_house.admit("GET", "/graphql", accept="text/html")

    assert answer.status == 200
    assert "graphiql" in answer.text.lower()


def test_a_browser_that_is_not_signed_in_is_led_to_the_page_to_sign_in(shared_house: House) -> None:
    answer = shared_house.ask("GET", "/runs?q=a%26b&x=1", accept="text/html")

    assert answer.status == 303
    assert answer.headers["location"] == "/login?next=%2Fruns%3Fq%3Da%2526b%26x%3D1"
    assert shared_house.ask("GET", "/admin/billing/months", accept="text/html").status == 401


def test_a_token_lets_nobody_into_anything_but_a_users_data(shared_house: House) -> None:
    for path in ("/graphql", "/admin/billing/months", "/metrics", "/v1/other", "/"):
        assert shared_house.ask("GET", f"{path}?token=x").status == 401
        assert shared_house.ask("GET", path, authorization="Bearer x").status == 401
    for path in ("/v1/users/user-0001/invoices", "/v1/users/user-0001/usage"):
        assert shared_house.ask("GET", f"{path}?token=x").status == 401
    assert shared_house.ask("POST", "/v1/users/user-0001/link?token=x").status == 401
