"""Puts answers on the wire: whole, cut short, or not at all."""

import asyncio
from typing import Any

from starlette.types import Receive, Scope, Send
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
