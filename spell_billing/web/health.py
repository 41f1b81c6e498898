"""`GET /health`: whether the server can work, for a load balancer; no detail, no secret needed."""

import asyncio
import time

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from spell_billing.core.errors import SpellBillingError
from spell_billing.ledger.ledger import Ledger
from spell_billing.web.answers import json_answer
from spell_billing.web.context import WebContext

ANSWER_SECONDS = 5.0
KEEP_SECONDS = 1.0
"""Asked more often, the answer is the last one: anyone may ask, and must not keep the ledger busy."""


def health_routes(context: WebContext) -> list[Route]:
    """Return the route."""
    return [Route("/health", _Health(context.ledger).answer, methods=["GET"])]


class _Health:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._lock = asyncio.Lock()
        self._asked_at = -KEEP_SECONDS
        self._well = False

    async def answer(self, _: Request) -> Response:
        async with self._lock:
            if time.monotonic() - self._asked_at >= KEEP_SECONDS:
                self._well = await self._ask()
                self._asked_at = time.monotonic()
        return json_answer({"status": "ok" if self._well else "unavailable"}, 200 if self._well else 503)

    async def _ask(self) -> bool:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                # Unlike Starlette's, this way of waiting for a thread can be given up.
                await asyncio.to_thread(self._answers)
        except (TimeoutError, SpellBillingError, SQLAlchemyError):
            return False
        return True

    def _answers(self) -> None:
        with self._ledger.reading() as connection:
            connection.execute(sa.text("SELECT 1"))
