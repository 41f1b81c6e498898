"""`POST /stripe/webhook`: Stripe's events into the inbox, each once; handled right after the answer."""

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import stripe
from fastapi import APIRouter, BackgroundTasks, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from sqlalchemy.exc import SQLAlchemyError

from spell_billing.core.errors import SpellBillingError
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.stripe_account import read_account
from spell_billing.payments.handler import handle_batch, handle_waiting, receive
from spell_billing.stripe_api.problems import StripeProblem
from spell_billing.web import api
from spell_billing.web.context import WebContext
from spell_billing.web.errors import ApiError

PATH = "/stripe/webhook"
TOLERANCE_SECONDS = 300
_BATCH = 100
_BATCHES = 20
_LOG = logging.getLogger("spell_billing.web")


class Receipt(BaseModel):
    """What became of an event."""

    received: bool = Field(description="Always true.")
    new: bool = Field(description="False for one that came before.")
    ignored: bool = Field(description="True for one without an object, or of the other mode (test or live).")


class _Data(BaseModel):
    object: dict[str, Any]


class _Event(BaseModel):
    model_config = ConfigDict(strict=True)

    id: str = Field(pattern="^[A-Za-z0-9_]{1,255}$")
    type: str
    created: int = Field(ge=0, le=2**33)  # in the year 2242
    data: _Data


router = APIRouter()
"""It lies before the gate; Stripe's signature guards it."""


@router.post(
    PATH,
    operation_id="stripeWebhook",
    response_description="Taken.",
    responses=api.errors(
        {
            400: "The signature is missing, wrong or too old.",
            413: "The body is too large.",
            503: "STRIPE_WEBHOOK_SECRET is not set, or the ledger does not answer.",
        }
    ),
    openapi_extra={
        "parameters": [
            {
                "name": "Stripe-Signature",
                "in": "header",
                "required": True,
                "schema": {"type": "string"},
                "description": "Stripe's: time and signature of the body.",
            }
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}},
    },
)
async def take(
    request: Request, context: api.Context, facts: api.Asker, background: BackgroundTasks
) -> Receipt:
    """Take an event that Stripe signed; it is handled after the answer."""
    secrets = context.web.stripe_webhook_secrets
    if not secrets:
        raise ApiError(
            503,
            "no_webhook_secret",
            "STRIPE_WEBHOOK_SECRET is not set: no event can be verified.",
            "Set it on the server to the endpoint's signing secret (whsec_...).",
        )
    payload = await request.body()
    header = request.headers.get("stripe-signature", "")
    if not is_signed(payload, header, secrets, int(context.clock().timestamp())):
        facts.action = "wrong signature"
        raise ApiError(
            400,
            "wrong_signature",
            "The signature is missing, wrong, or not of the last five minutes.",
            "Check STRIPE_WEBHOOK_SECRET, and the clock of the server.",
        )
    facts.who = "stripe"
    event = _event(payload)
    if event is None or await run_in_threadpool(_is_of_other_mode, context.ledger, event):
        return Receipt(received=True, new=False, ignored=True)
    # Where the ledger does not answer this raises, Stripe is told 503 and sends the event again.
    new = await run_in_threadpool(context.ledger.write, receive, [event], "webhook")
    handling: EventHandling = request.app.state.events
    if new:
        background.add_task(handling.wake)
    return Receipt(received=True, new=bool(new), ignored=False)


def is_signed(payload: bytes, header: str, secrets: Sequence[SecretStr], now: int) -> bool:
    """Return whether Stripe signed the payload with one of our secrets within 300 s of now (Unix time).

    While one secret replaces another, Stripe may sign with either. Its SDK takes timestamps from the future,
    so both sides are checked here.
    """
    parts = (part.partition("=") for part in header.split(","))
    timestamp = next((value for name, _, value in parts if name == "t"), "")
    if not timestamp.isascii() or not timestamp.isdigit() or len(timestamp) > len(str(now)):
        return False
    if abs(int(timestamp) - now) > TOLERANCE_SECONDS:
        return False
    for secret in secrets:
        with suppress(stripe.SignatureVerificationError, UnicodeDecodeError):
            stripe.WebhookSignature.verify_header(payload, header, secret.get_secret_value())
            return True
    return False


def _event(payload: bytes) -> Mapping[str, Any] | None:
    """Return a signed payload as an event; None for one without an object, as of Stripe's newer kinds."""
    try:
        event: Mapping[str, Any] = json.loads(payload)
        _Event.model_validate(event)
    except ValueError:
        return None
    return event


def _is_of_other_mode(ledger: Ledger, event: Mapping[str, Any]) -> bool:
    """Return whether an event comes from the test mode of a live ledger's account, or the reverse."""
    account = ledger.read(read_account)
    live = event.get("livemode")
    return account is not None and isinstance(live, bool) and live != (account.mode == "live")


class EventHandling:
    """Handle what waits in the inbox with the sensor's code, one batch after the other.

    Whatever it leaves, for want of time or of Stripe's answer, the sensor takes up.
    """

    def __init__(self, context: WebContext) -> None:
        self._context = context
        self._at_work = asyncio.Lock()
        self._more = False

    async def wake(self) -> None:
        """Handle what waits; while that is under way, another call only says that there is more."""
        self._more = True
        if self._at_work.locked():
            return
        async with self._at_work:
            while self._more:
                self._more = False
                await self._handle()

    async def _handle(self) -> None:
        ledger = self._context.ledger
        try:
            if not self._context.settings.has_stripe_api_key:
                await asyncio.to_thread(handle_batch, ledger, _BATCH)
                return
            async with self._context.stripe().connect(ledger) as gateway:
                for _ in range(_BATCHES):
                    if not (await handle_waiting(ledger, gateway, _BATCH)).waiting:
                        return
        except (SpellBillingError, StripeProblem, SQLAlchemyError) as error:
            # What an event holds is never logged.
            _LOG.warning("events wait for the payments sensor: %s", type(error).__name__)
