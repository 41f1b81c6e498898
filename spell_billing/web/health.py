"""`GET /health`: whether the server can work, for a load balancer; no detail, no secret needed."""

import asyncio
import time
from http import HTTPStatus
from typing import Literal

import sqlalchemy as sa
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError

from spell_billing.core.errors import SpellBillingError
from spell_billing.ledger.ledger import Ledger
from spell_billing.web.api import JsonRoute

ANSWER_SECONDS = 5.0
KEEP_SECONDS = 1.0
"""Asked more often, the answer is the last one: anyone may ask, and must not keep the ledger busy."""


class Health(BaseModel):
    """Whether the server can work."""

    status: Literal["ok", "unavailable"]


class HealthCheck:
    """Ask the ledger whether it answers, for all who ask at once."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._lock = asyncio.Lock()
        self._asked_at = -KEEP_SECONDS
        self._well = False

    async def is_well(self) -> bool:
        """Return whether the ledger answers now, or did a second ago."""
        async with self._lock:
            if time.monotonic() - self._asked_at >= KEEP_SECONDS:
                self._well = await self._ask()
                self._asked_at = time.monotonic()
        return self._well

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


router = APIRouter(route_class=JsonRoute)


@router.get(
    "/health",
    operation_id="health",
    response_description="It can.",
    responses={503: {"model": Health, "description": "It cannot."}},
)
async def health(request: Request, response: Response) -> Health:
    """Say whether the server can work."""
    check: HealthCheck = request.app.state.health
    if await check.is_well():
        return Health(status="ok")
    response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    return Health(status="unavailable")
