"""What every request passes: the access log, security headers, and bounds on size and on work at once."""

import asyncio
import logging
import re
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import orjson
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from spell_billing.web.errors import error_answer, http_error
from spell_billing.web.facts import facts_of
from spell_billing.web.gate import USER_PAGE_PREFIX

LOGGER = "spell_billing.access"
_LOGGED_LETTERS = 500
_CLIENT_LEFT = 499
"""As nginx writes it: no status, because nobody waited for the answer."""

OURS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_FRAMES = "frame-ancestors 'self'"

LARGEST_BODY_BYTES = 64 * 1024
BODY_BYTES: Mapping[str, int] = {
    "/stripe/webhook": 256 * 1024,
    "/graphql": 4 * 1024 * 1024,
    "/report_": 1024 * 1024,
}
"""Larger ones by the beginning of a path: Stripe's events, and what Dagster's pages and reports send."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
"""A pattern's end also matches before a line break: `/graphql` and a line break would reach GraphQL."""

LONGEST_PATH = 2_000

AT_ONCE = 8
"""This many requests work on the ledger at once; it has connections for 15."""
WAIT_SECONDS = 5.0
"""How long a request waits for its turn."""


def with_access_log(app: ASGIApp, clock: Callable[[], datetime]) -> ASGIApp:
    """Write a line when the answer is out. Queries are left out: a link's token may stand there."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        facts, began = facts_of(scope), time.monotonic()
        status, sent_bytes, ended = _CLIENT_LEFT, 0, None

        async def watch(message: Message) -> None:
            nonlocal status, sent_bytes, ended
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "websocket.accept":
                status = 101
            elif message["type"] == "websocket.close" and status != 101:  # noqa: PLR2004 - HTTP's number
                status = 403
            sent_bytes += len(message.get("body") or message.get("bytes") or message.get("text") or b"")
            await send(message)
            # What goes on behind an answer, as handling an event, is no part of the time it took.
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                ended = time.monotonic()

        try:
            await app(scope, receive, watch)
        finally:
            seconds = (ended or time.monotonic()) - began
            line = {
                "time": clock().isoformat(timespec="milliseconds"),
                "address": facts.address,
                "who": facts.who,
                "action": facts.action,
                "method": scope.get("method", "WEBSOCKET"),
                "path": loggable(scope["path"]),
                "status": status,
                "milliseconds": round(seconds * 1000, 1),
                "bytes": sent_bytes,
            }
            logging.getLogger(LOGGER).info("%s", orjson.dumps(line).decode())

    return serve


def loggable(path: str) -> str:
    """Return a path without the token of a user's page, in a bounded length."""
    if path.startswith(USER_PAGE_PREFIX):
        return f"{USER_PAGE_PREFIX}***"
    # orjson takes no lone surrogates, and a path may have been decoded to some.
    return path[:_LOGGED_LETTERS].encode("utf-8", "replace").decode()


def log_to_standard_error() -> None:
    """Let the access log write to standard error, one line a request."""
    logger = logging.getLogger(LOGGER)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers = [logging.StreamHandler(sys.stderr)]


def with_security_headers(app: ASGIApp, *, https: bool) -> ASGIApp:
    """Add the headers that an answer lacks: one that an answer gives itself stays as it is."""

    def add(headers: MutableHeaders, scope: Scope) -> None:
        for name, value in OURS.items():
            headers.setdefault(name, value)
        if https or scope["scheme"] == "https":
            headers.setdefault("Strict-Transport-Security", "max-age=31536000")

    return _changing(app, add)


def with_dagster_headers(app: ASGIApp) -> ASGIApp:
    """Adapt the headers to Dagster's pages: they have a policy for scripts, which frames are added to.

    Answers with data are never stored; pictures and scripts are asked for again with their ETag.
    """

    def adapt(headers: MutableHeaders, _: Scope) -> None:
        policy = headers.get("content-security-policy", "").rstrip("; ")
        headers["Content-Security-Policy"] = f"{policy}; {_FRAMES}" if policy else _FRAMES
        headers["X-Frame-Options"] = "SAMEORIGIN"
        headers.setdefault("Cache-Control", "private, no-cache" if "etag" in headers else "no-store")
        headers["Referrer-Policy"] = "same-origin"

    return _changing(app, adapt)


def _changing(app: ASGIApp, change: Callable[[MutableHeaders, Scope], None]) -> ASGIApp:
    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_changed(message: Message) -> None:
            if message["type"] == "http.response.start":
                change(MutableHeaders(scope=message), scope)
            await send(message)

        await app(scope, receive, send_changed)

    return serve


def with_limits(app: ASGIApp) -> ASGIApp:
    """Refuse paths with control characters, and bodies that are too large, announced or not.

    Slow senders and long headers are the reverse proxy's: see `docs/serve.md`.
    """

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        path = scope["path"]
        if len(path) > LONGEST_PATH or _CONTROL.search(path) is not None:
            raise HTTPException(400)
        larger = (size for start, size in BODY_BYTES.items() if path.startswith(start))
        largest = next(larger, LARGEST_BODY_BYTES)
        if int(Headers(scope=scope).get("content-length", "0")) > largest:
            raise HTTPException(413)
        await RequestBodyLimitMiddleware(app, largest)(scope, receive, send)

    # Whatever breaks a bound, here or where the body is read, is answered in one place.
    handlers: dict[Any, Any] = {HTTPException: http_error}
    return ExceptionMiddleware(serve, handlers)


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
            await self._app(scope, replayed(body, receive), send)
        finally:
            self._turns.release()


def replayed(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that brings a body that was read, in one piece, then what the client does next."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return first.pop() if first else await receive()

    return replay
