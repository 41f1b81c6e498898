"""Bounds on requests: the size of each, and how many work at once."""

import asyncio
import http.client
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import closing

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from spell_billing.web.middleware import Turns
from spell_billing_tests.web.house import SECRET, Answer, House, serving


def get(address: tuple[str, int], path: str = "/", body: Iterable[bytes] | bytes | None = None) -> Answer:
    with closing(http.client.HTTPConnection(*address, timeout=20)) as connection:
        connection.request("GET" if body is None else "POST", path, body)
        response = connection.getresponse()
        return Answer(response.status, dict(response.headers.items()), response.read())


def raw(address: tuple[str, int], *pieces: bytes) -> bytes:
    """Send pieces, then listen until the server closes."""
    with socket.create_connection(address, timeout=20) as connection:
        for piece in pieces:
            connection.sendall(piece)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
        return received


@pytest.mark.parametrize(
    ("path", "most_bytes"),
    [
        ("/login", 64 * 1024),
        ("/stripe/webhook", 256 * 1024),
        ("/graphql", 4 * 1024 * 1024),
        ("/report_asset_materialization/x", 1024 * 1024),
        ("/admin/billing/process-monthly", 64 * 1024),
        ("/v1/users/user-0001/link", 64 * 1024),
        ("/anything", 64 * 1024),
    ],
)
def test_a_body_has_a_limit_announced_or_not(shared_house: House, path: str, most_bytes: int) -> None:
    headers = {"X-Admin-Secret": SECRET, "Content-Type": "application/json", "Sec-Fetch-Site": "same-origin"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    announced = f"POST {path} HTTP/1.1\r\nHost: x\r\n{lines}Content-Length: {most_bytes + 1}\r\n\r\n"
    head, _, body = raw(shared_house.address, announced.encode()).partition(b"\r\n\r\n")
    assert head.split()[1] == b"413"
    assert b'"body_too_large"' in body
    with closing(http.client.HTTPConnection(*shared_house.address, timeout=20)) as connection:
        connection.request("POST", path, b" " * most_bytes, headers)
        assert connection.getresponse().status != 413, "a body of the limit's size is taken"
    # Only a handler that reads the body meets what was not announced.
    if path != "/anything":
        with closing(http.client.HTTPConnection(*shared_house.address, timeout=20)) as connection:
            connection.request("POST", path, iter([b" " * most_bytes, b" "]), headers, encode_chunked=True)
            assert connection.getresponse().status == 413


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "99999999999999999999", "9" * 5_000])
def test_a_false_length_is_refused(shared_house: House, length: str) -> None:
    lines = f"POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    status = raw(shared_house.address, lines.encode()).split()[1]

    assert status in {b"400", b"413"}


def test_long_paths_are_refused(shared_house: House) -> None:
    assert shared_house.admit("GET", f"/{'x' * 2_001}").status == 400


class Gates:
    """Handlers that wait until they are let go."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)

    async def wait(self, _: Request) -> Response:
        self.entered.release()
        await asyncio.to_thread(self.open.wait, 20)
        return PlainTextResponse("done")

    def routes(self) -> list[Route]:
        return [Route("/wait", self.wait), Route("/quick", quick)]


async def quick(_: Request) -> Response:
    return PlainTextResponse("quick")


def in_background(work: Callable[[], Answer]) -> tuple[threading.Thread, list[Answer]]:
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(work()))
    thread.start()
    return thread, answers


def test_only_so_many_requests_work_at_once_and_the_others_hear_so() -> None:
    gates = Gates()
    with serving(Turns(Starlette(routes=gates.routes()), at_once=1, wait_seconds=0.2)) as address:
        thread, answers = in_background(lambda: get(address, "/wait"))
        assert gates.entered.acquire(timeout=10)
        busy = get(address, "/quick")
        gates.open.set()
        thread.join(10)
        free = get(address, "/quick")

    assert (busy.status, busy.json["error"]["code"], busy.headers["retry-after"]) == (503, "busy", "5")
    assert answers[0].body == b"done"
    assert free.body == b"quick"


def test_slow_senders_keep_nobody_out(shared_house: House) -> None:
    began = b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc"
    slow = [socket.create_connection(shared_house.address, timeout=10) for _ in range(30)]
    try:
        for connection in slow:
            connection.sendall(began)
        assert shared_house.ask("GET", "/health").status == 200
        assert shared_house.ask("GET", "/login").status == 200
        for connection in slow:
            connection.settimeout(0)
            with pytest.raises(BlockingIOError):  # neither answered nor cut off: nobody waited for its end
                connection.recv(1)
    finally:
        for connection in slow:
            connection.close()
