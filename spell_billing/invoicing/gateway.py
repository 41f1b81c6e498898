"""One run's gateway to Stripe: paced, retried with the same key, stopped when nobody can be billed.

A ledger bills one Stripe account: it is recorded with the first request, and checked in each run after it.
One in which nothing was made gives way to the account of the next billing run.
"""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime
from typing import Any

from spell_billing.core.errors import StripeAccountError, StripeSilentError
from spell_billing.core.latencies import Latencies
from spell_billing.invoicing.pace import Pace
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Actor
from spell_billing.ledger.stripe_account import (
    Mode,
    StripeAccount,
    made_nothing,
    newest_finalized,
    read_account,
    record_account,
    replace_unused,
)
from spell_billing.stripe_api.client import Answer, Invoice, StripeApi
from spell_billing.stripe_api.problems import Kind, StripeProblem

PAGE = 100
"""The most objects that Stripe lists in one answer."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a run keeps trying; pauses grow from the first to the longest, jittered."""

    tries: int = 6
    """Attempts at one request whose outcome stays unknown."""
    limited_tries: int = 30
    """Attempts at one request that Stripe answers with 429."""
    first_pause_seconds: float = 0.5
    longest_pause_seconds: float = 8.0
    down_seconds: float = 180.0
    """This long without any answer while requests fail means that Stripe is down."""


Send = Callable[..., Awaitable[Answer]]
"""Sends one request, as `Gateway.send` does, before the gateway is open to others.

With `optional`, a key that lacks the permission is a problem like any other.
"""


@dataclass
class Gateway:
    """Sends requests until they succeed, fail for good, or patience ends.

    It counts requests and their durations by endpoint, whatever Stripe answered; those it `limited` by a 429;
    and `unknown_writes`, which were not answered, whatever a later try of them brought. `date` is when Stripe
    answered last, by its clock; empty where it did not say. `account` has the key, as the guard found.
    """

    api: StripeApi
    pace: Pace
    patience: Patience
    _: KW_ONLY
    guard: Callable[[Send], Awaitable[StripeAccount]] | None = None
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random
    requests: defaultdict[str, Latencies] = field(default_factory=lambda: defaultdict(Latencies))
    limited: int = 0
    unknown_writes: int = 0
    date: str = ""
    account: StripeAccount | None = None
    _guarding: asyncio.Lock = field(default_factory=asyncio.Lock)
    _silent_since: float | None = None

    async def send(
        self,
        endpoint: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        **ids: str,
    ) -> Answer:
        """Send a request; on an unknown outcome send the same bytes with the same key again.

        Before the first one the guard looks which account answers. `endpoint`, as
        `GET /v1/invoices/{invoice}`, names it for pacing and counts too; `ids` fill in its path.

        Raises:
            StripeProblem: permanent, stuck, conflicting or missing; transient when patience has ended.
            StripeAccountError: when nobody can be billed; StripeSilentError: for now.
        """
        if self.guard is not None:
            async with self._guarding:
                if self.guard is not None:
                    self.account = await self.guard(self._send)
                    self.guard = None
        return await self._send(endpoint, parameters, key=key, optional=False, **ids)

    async def _send(
        self,
        endpoint: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        optional: bool = False,
        **ids: str,
    ) -> Answer:
        method, path = endpoint.format(**ids).split(" ")
        unknown = limited = 0
        while True:
            await self.pace.wait(endpoint)
            started = self.clock()
            try:
                answer = await self.api.send(method.lower(), path, parameters, key=key)
            except StripeProblem as problem:
                if problem.forbidden and optional:
                    raise
                self.unknown_writes += method != "GET" and problem.kind is Kind.TRANSIENT
                self._watch(problem, endpoint)
                if problem.kind is Kind.LIMITED:
                    limited += 1
                    self.limited += 1
                    self.pace.slow_down(endpoint, problem.limited_by)
                    if limited >= self.patience.limited_tries:
                        raise
                elif problem.kind is Kind.TRANSIENT:
                    unknown += 1
                    if unknown >= self.patience.tries:
                        raise
                else:
                    problem.fresh = unknown > 0
                    raise
            else:
                self._silent_since = None
                self.date = answer.date or self.date
                return answer
            finally:
                self.requests[endpoint].observe(self.clock() - started)
            grown: float = self.patience.first_pause_seconds * 2 ** (unknown + limited - 1)
            longest = min(self.patience.longest_pause_seconds, grown)
            await asyncio.sleep(longest * (0.5 + 0.5 * self.jitter()))

    def invoices(self, **filters: Any) -> AsyncIterator[list[Invoice]]:
        """List invoices as `pages`, newest first, filtered by `customer`, `created` or `status`."""
        return self.pages("GET /v1/invoices", filters)

    async def pages(
        self, endpoint: str, parameters: dict[str, Any], **ids: str
    ) -> AsyncIterator[list[Invoice]]:
        """List objects page by page, as Stripe orders them. Errors are those of `send`."""
        while True:
            answer = await self.send(endpoint, {"limit": PAGE, **parameters}, **ids)
            page: list[Invoice] = answer.object["data"]
            if page:
                yield page
            if not page or not answer.object["has_more"]:
                return
            parameters = {**parameters, "starting_after": page[-1]["id"]}

    async def first_page(self, endpoint: str, **parameters: Any) -> list[dict[str, Any]]:
        """Return the first hundred objects of a list, as Stripe orders them."""
        answer = await self.send(endpoint, {"limit": PAGE, **parameters})
        return list(answer.object["data"])

    def _watch(self, problem: StripeProblem, endpoint: str) -> None:
        if problem.missing is not None:
            raise StripeAccountError(
                f"The restricted key in STRIPE_API_KEY lacks a permission for {endpoint}: {problem.missing}.",
                remedy="Allow it in Stripe's dashboard (Developers, API keys), then try again; "
                "docs/permissions.md has the whole list.",
            )
        if problem.kind is Kind.ACCOUNT:
            raise StripeAccountError(
                f"Stripe refuses the account: {problem.message}",
                remedy="Check STRIPE_API_KEY, its permissions and the account, then bill the month again.",
            )
        if problem.kind is not Kind.TRANSIENT:
            self._silent_since = None
            return
        # Counted from the first failure: a run that was busy elsewhere has not found Stripe silent.
        now = self.clock()
        self._silent_since = now if self._silent_since is None else self._silent_since
        if now - self._silent_since > self.patience.down_seconds:
            raise StripeSilentError(
                f"Stripe has not answered for {self.patience.down_seconds:.0f} seconds: {problem.message}.",
                remedy="Check the network and Stripe's status page, then bill the month again.",
            )


Connect = Callable[[], AbstractAsyncContextManager[Gateway]]
"""Opens a gateway to Stripe."""


def require_mode(ledger: Ledger, mode: Mode, biller: Actor | None = None) -> None:
    """Refuse a key of another mode than the ledger bills, with a StripeAccountError; nothing is sent.

    A `biller` may take the place of one in which nothing was made, as in `require_account`.
    """
    recorded, present = ledger.read(read_account), StripeAccount(mode, None)
    if recorded is None or not recorded.is_other_than(present):
        return
    unused = ledger.read(made_nothing)
    if biller is None or not unused:
        require_same(recorded, present, unused=unused)


async def require_account(
    ledger: Ledger, mode: Mode, send: Send, *, biller: Actor | None = None
) -> StripeAccount:
    """Ask which account answers, record it for the first time, and refuse another than the ledger's.

    For a `biller`, which runs a month, it is recorded in place of one in which nothing was made. Return it.
    """
    present = StripeAccount(mode, await _account_id(send))
    recorded = await asyncio.to_thread(ledger.read, read_account)
    newest_invoice_id = await asyncio.to_thread(ledger.read, newest_finalized)
    if newest_invoice_id is not None and (recorded is None or present.account_id is None):
        # A ledger of an earlier version has invoices and no account; a restricted key may not see it.
        await _require_invoice(send, newest_invoice_id, present)
    if recorded is None or recorded.account_id is None:
        recorded = await asyncio.to_thread(ledger.write, record_account, present, datetime.now(UTC))
    unused = False
    if recorded.is_other_than(present):
        if biller is None:
            unused = await asyncio.to_thread(ledger.read, made_nothing)
        else:
            recorded = await asyncio.to_thread(_replaced, ledger, present, biller) or recorded
    require_same(recorded, present, unused=unused)
    return present


def _replaced(ledger: Ledger, present: StripeAccount, biller: Actor) -> StripeAccount | None:
    with ledger.exclusive():
        return ledger.write(replace_unused, present, biller, datetime.now(UTC))


async def _account_id(send: Send) -> str | None:
    try:
        answer = await send("GET /v1/account", optional=True)
    except StripeProblem as problem:
        if problem.forbidden:
            return None
        raise
    account_id: str | None = answer.object.get("id")
    return account_id


async def _require_invoice(send: Send, invoice_id: str, present: StripeAccount) -> None:
    """Refuse an account that does not have an invoice of the ledger's."""
    try:
        await send("GET /v1/invoices/{invoice}", invoice=invoice_id)
    except StripeProblem as problem:
        if problem.kind is not Kind.MISSING:
            raise
        raise StripeAccountError(
            f"Invoice {invoice_id}, which this ledger made, does not exist in the Stripe account of "
            f"STRIPE_API_KEY ({present}).",
            remedy="Use the key of the account that was billed, or give this account a ledger of its own "
            "(DATABASE_URL).",
        ) from None


def require_same(recorded: StripeAccount, present: StripeAccount, *, unused: bool = False) -> None:
    """Refuse an account that is known to be another than the recorded one, with a StripeAccountError.

    `unused` says that nothing was made in the recorded one.
    """
    if not recorded.is_other_than(present):
        return
    remedy = (
        "Put the former key back; or, if that was a rehearsal, run `spell-billing forget-rehearsal`."
        if recorded.mode == "test"
        else "Put the former key back, or give the other account a ledger of its own (DATABASE_URL)."
    )
    if unused:
        remedy += " Or run `spell-billing bill` with this key: nothing was made in the other account."
    raise StripeAccountError(
        f"This ledger bills {recorded}, and STRIPE_API_KEY is of {present}.", remedy=remedy
    )
