"""`GET /health`: whether the server can work, for a load balancer; no detail, no secret needed."""

import asyncio
from http import HTTPStatus
from typing import Literal

import sqlalchemy as sa
from fastapi import APIRouter, Response
from pydantic import BaseModel, Field
from sqlalchemy.exc import SQLAlchemyError

from spell_billing.core.errors import SpellBillingError
from spell_billing.web import api


class Health(BaseModel):
    """Whether the server can work."""

    status: Literal["ok", "unavailable"] = Field(description="`ok` when the ledger answers.")


router = APIRouter(route_class=api.JsonRoute)


@router.get(
    "/health",
    operation_id="health",
    response_description="It can.",
    responses={503: {"model": Health, "description": "It cannot."}},
)
async def health(context: api.Context, response: Response) -> Health:
    """Say whether the server can work."""
    try:
        # Unlike Starlette's, this way of waiting for a thread can be given up.
        answer = asyncio.to_thread(context.ledger.read, lambda each: each.scalar(sa.text("SELECT 1")))
        await asyncio.wait_for(answer, timeout=5.0)
    except (TimeoutError, SpellBillingError, SQLAlchemyError):
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
        return Health(status="unavailable")
    return Health(status="ok")
