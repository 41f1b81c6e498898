"""Real receivers of alerts on this machine: a web service and a mail server, each of which can refuse."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import Envelope


@dataclass
class WebReceiver:
    """Takes what is posted to it, at any path."""

    port: int = 0
    status: int = 200
    requests: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)

    def url(self, path: str = "", *, schema: str = "json", query: str = "", login: str = "") -> str:
        return f"{schema}://{login}127.0.0.1:{self.port}/{path}{query}"

    @property
    def titles(self) -> list[str]:
        """The titles of the JSON messages that were taken."""
        return [body["title"] for _, _, body in self.requests]

    @property
    def texts(self) -> list[str]:
        return [f"{body['title']}\n{body['message']}" for _, _, body in self.requests]

    @contextmanager
    def running(self) -> Iterator["WebReceiver"]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if receiver.status == 200:
                    receiver.requests.append((self.path, dict(self.headers), json.loads(body)))
                self.send_response(receiver.status)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
                pass

        with ThreadingHTTPServer(("127.0.0.1", self.port), Handler) as server:
            self.port = server.server_port
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()


@dataclass
class MailReceiver:
    """Takes mail, or refuses each with an answer of one's choice."""

    answer: str = "250 taken"
    mails: list[Message] = field(default_factory=list)
    port: int = 0

    def url(self, *, password: str = "") -> str:
        login = f"billing:{password}@" if password else ""
        # Plain on this machine: the test's server has no certificate.
        return (
            f"mailto://{login}127.0.0.1:{self.port}/oncall@example.com?from=billing@example.com&mode=insecure"
        )

    async def handle_DATA(self, server: object, session: object, envelope: Envelope) -> str:  # noqa: ARG002, N802 - aiosmtpd's names
        if self.answer.startswith("250"):
            assert isinstance(envelope.content, bytes)
            self.mails.append(message_from_bytes(envelope.content))
        return self.answer

    @contextmanager
    def running(self) -> Iterator["MailReceiver"]:
        # The controller connects to the port that it was given, so 0 does not serve.
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        controller = Controller(self, hostname="127.0.0.1", port=self.port)
        controller.start()
        try:
            yield self
        finally:
            controller.stop()
