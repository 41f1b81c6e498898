"""The access log: one line of JSON for every request, with who asked from where, and no secret in it."""

import logging
import sys
import time
from collections.abc import Callable
from datetime import datetime

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from spell_billing.web.facts import facts_of
from spell_billing.web.gate import USER_PAGE_PREFIX

LOGGER = "spell_billing.access"
_LONGEST_PATH = 500
_CLIENT_LEFT = 499
"""As nginx writes it: no status, because nobody waited for the answer."""


class AccessLog:
    """Writes a line when the answer is out. Queries are left out: a link's token may stand there."""

    def __init__(self, app: ASGIApp, clock: Callable[[], datetime]) -> None:
        self._app = app
        self._clock = clock
        self._logger = logging.getLogger(LOGGER)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request, then write its line."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
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
            await self._app(scope, receive, watch)
        finally:
            seconds = (ended or time.monotonic()) - began
            line = {
                "time": self._clock().isoformat(timespec="milliseconds"),
                "address": facts.address,
                "who": facts.who,
                "action": facts.action,
                "method": scope.get("method", "WEBSOCKET"),
                "path": loggable(scope["path"]),
                "status": status,
                "milliseconds": round(seconds * 1000, 1),
                "bytes": sent_bytes,
            }
            self._logger.info("%s", orjson.dumps(line).decode())


def loggable(path: str) -> str:
    """Return a path without the token of a user's page, in a bounded length."""
    if path.startswith(USER_PAGE_PREFIX):
        return f"{USER_PAGE_PREFIX}***"
    # orjson takes no lone surrogates, and a path may have been decoded to some.
    return path[:_LONGEST_PATH].encode("utf-8", "replace").decode()


def log_to_standard_error() -> None:
    """Let the access log write to standard error, one line a request."""
    logger = logging.getLogger(LOGGER)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers = [logging.StreamHandler(sys.stderr)]
