"""Bounds on every request: its path, the size of its body, and how many work at once."""

import asyncio
import re
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from spell_billing.web.errors import error_answer, http_error

LARGEST_BODY_BYTES = 64 * 1024
BODY_BYTES: Mapping[str, int] = {
    "/stripe/webhook": 256 * 1024,
    "/graphql": 4 * 1024 * 1024,
}
"""Larger ones of single paths: Stripe's events, and what Dagster's pages send."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
"""A pattern's end also matches before a line break: `/graphql` and a line break would reach GraphQL."""

REPORT_PREFIX = "/report_"
LARGEST_REPORT_BYTES = 1024 * 1024
LONGEST_PATH = 2_000

AT_ONCE = 8
"""This many requests work on the ledger at once; it has connections for 15."""
WAIT_SECONDS = 5.0
"""How long a request waits for its turn."""


class RequestLimits:
    """Refuse paths with control characters, and bodies that are too large, announced or not.

    Slow senders and long headers are the reverse proxy's: see `docs/serve.md`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        # Whatever breaks a bound, here or where the body is read, is answered in one place.
        handlers: dict[Any, Any] = {HTTPException: http_error}
        self._answering = ExceptionMiddleware(self._limit, handlers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request, or say which bound it breaks."""
        await (self._answering if scope["type"] == "http" else self._app)(scope, receive, send)

    async def _limit(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if len(path) > LONGEST_PATH or _CONTROL.search(path) is not None:
            raise HTTPException(400)
        if int(Headers(scope=scope).get("content-length", "0")) > _largest_body(path):
            raise HTTPException(413)
        await RequestBodyLimitMiddleware(self._app, _largest_body(path))(scope, receive, send)


class Turns:
    """Let a bounded number of requests work at once.

    A request's turn begins when its body is there, so nobody keeps others out by sending slowly. What works
    for too long is the reverse proxy's to answer; it keeps its turn until it has ended.
    """

    def __init__(self, app: ASGIApp, *, at_once: int = AT_ONCE, wait_seconds: float = WAIT_SECONDS) -> None:
        self._app = app
        self._turns = asyncio.Semaphore(at_once)
        self._wait_seconds = wait_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request when its turn comes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        body = await request.body()
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._turns.acquire()
        except TimeoutError:
            words = "The server is busy", "Try again in a few seconds."
            answer = error_answer(request, 503, "busy", *words, headers={"Retry-After": "5"})
            await answer(scope, receive, send)
            return
        try:
            await self._app(scope, again(body, receive), send)
        finally:
            self._turns.release()


def again(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that brings a body that was read, in one piece, then what the client does next."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return first.pop() if first else await receive()

    return replay


def _largest_body(path: str) -> int:
    if path.startswith(REPORT_PREFIX):
        return LARGEST_REPORT_BYTES
    return BODY_BYTES.get(path, LARGEST_BODY_BYTES)
