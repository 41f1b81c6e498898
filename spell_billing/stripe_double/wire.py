"""The double on the wire: uvicorn in a thread or a process; answers sent whole, cut short, or not at all."""

import asyncio
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from spell_billing.stripe_double.idempotency import Answer
from spell_billing.stripe_double.render import to_bytes

_EXTENSION = "stripe_double.connection"

Headers = list[tuple[bytes, bytes]]


class DroppableProtocol(HttpToolsProtocol):
    """HTTP that hands the connection to the application, so that it can be cut."""

    def on_message_begin(self) -> None:
        """Start a request, with the connection among the extensions of its scope."""
        super().on_message_begin()
        self.scope["extensions"] = {_EXTENSION: {"transport": self.transport}}


class Server(uvicorn.Server):
    """A uvicorn server that says when it is ready, and ends without killing its process."""

    def __init__(
        self, app: ASGIApp, *, on_ready: Callable[[], object], on_stopping: Callable[[], object]
    ) -> None:
        config = uvicorn.Config(
            app,
            http=DroppableProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=2,
            timeout_keep_alive=75,
        )
        super().__init__(config)
        self._on_ready = on_ready
        self._on_stopping = on_stopping
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Run a callback in the server's thread; for any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(callback)

    def stop(self) -> None:
        """End the server; for any thread."""
        self.should_exit = True
        self.call_soon(self._stop.set)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End the server on a signal."""
        super().handle_exit(sig, frame)
        # uvicorn would raise it again afterwards, and kill the process before it says goodbye.
        self._captured_signals.clear()
        self.stop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, and tell."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self._on_ready()

    async def main_loop(self) -> None:
        """Serve until told to stop."""
        await self._stop.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the waiting requests, then the server."""
        self._on_stopping()
        await super().shutdown(sockets)


def url_of(host: str, port: int) -> str:
    """Return the address of a server that listens there."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def read_body(receive: Receive) -> bytes:
    """Read the whole body."""
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
    return body


async def send_answer(answer: Answer, headers: Headers, send: Send, *, half: bool = False) -> None:
    """Send an answer, or announce it and send the first half of its body."""
    body = to_bytes(answer.payload)
    all_headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *headers,
        *answer.headers,
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": all_headers})
    sent = body[: len(body) // 2] if half else body
    await send({"type": "http.response.body", "body": sent, "more_body": half})


async def drop(scope: Scope, receive: Receive) -> None:
    """Close the connection without an answer."""
    transport: Any = scope["extensions"][_EXTENSION]["transport"]
    transport.close()
    while (await receive())["type"] != "http.disconnect":
        pass


async def wait_until_gone(receive: Receive, stopping: asyncio.Event) -> None:
    """Wait until the client has closed the connection, or the server stops."""
    gone = asyncio.ensure_future(receive())
    stop = asyncio.ensure_future(stopping.wait())
    _, pending = await asyncio.wait({gone, stop}, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
