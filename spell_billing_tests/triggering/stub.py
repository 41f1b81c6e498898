"""A web server whose every answer a test writes: for what no real server does on demand."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson

Answer = tuple[int, dict[str, str], bytes]
"""Status, headers, body; None in its place ends the connection without an answer."""


@contextmanager
def answering(answer: Callable[[str, bytes, dict[str, str]], Answer | None]) -> Iterator[str]:
    """Serve `answer(path, body, headers)`; give the address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            given = answer(self.path, body, {name.lower(): text for name, text in self.headers.items()})
            self.close_connection = True
            if given is None:
                return
            status, headers, content = given
            self.send_response(status)
            for name, text in {"Connection": "close", "Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815 - the library's name

        def log_message(self, *_: object) -> None:
            """Write nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def as_json(content: object, status: int = 200, **headers: str) -> Answer:
    """Give an answer in JSON; `Retry_After` stands for the header Retry-After."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return status, {"Content-Type": "application/json", **named}, orjson.dumps(content)


def asked(body: bytes) -> tuple[str, dict[str, Any]]:
    """Give the field that a GraphQL request asks for first, and its variables."""
    content = orjson.loads(body)
    field = content["query"].split("{", 1)[1].split("(")[0].split("{")[0].split()[0]
    return field, content["variables"]
