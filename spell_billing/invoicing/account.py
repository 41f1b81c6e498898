"""Which Stripe account a ledger bills: recorded with the first request, checked in each run after it."""

import asyncio
from datetime import UTC, datetime

from spell_billing.core.errors import StripeAccountError
from spell_billing.invoicing.gateway import Send
from spell_billing.invoicing.lookups import RETRIEVE
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.stripe_account import (
    Mode,
    StripeAccount,
    newest_finalized,
    read_account,
    record_account,
)
from spell_billing.stripe_api.problems import Kind, StripeProblem


class AccountGuard:
    """Lets a gateway send requests for a ledger only to the account and in the mode that the ledger bills."""

    def __init__(self, ledger: Ledger, mode: Mode) -> None:
        self._ledger = ledger
        self._mode = mode

    def require_mode(self) -> None:
        """Refuse a key of the other mode; nothing is sent.

        Raises:
            StripeAccountError: naming both.
        """
        recorded, _ = self._read()
        if recorded is not None:
            _require_same(recorded, StripeAccount(self._mode, None))

    async def __call__(self, send: Send) -> None:
        """Ask which account answers, compare it with the ledger's, and record it for the first time.

        Raises:
            StripeAccountError: for another account than the ledger's; StripeProblem: Stripe does not answer.
        """
        present = StripeAccount(self._mode, await _account_id(send))
        recorded, newest_invoice_id = await asyncio.to_thread(self._read)
        if recorded is None and newest_invoice_id is not None:
            # A ledger of an earlier version has invoices and no account.
            await _require_invoice(send, newest_invoice_id, present)
        if recorded is None or recorded.account_id is None:
            recorded = await asyncio.to_thread(self._record, present)
        _require_same(recorded, present)

    def _read(self) -> tuple[StripeAccount | None, str | None]:
        with self._ledger.reading() as connection:
            return read_account(connection), newest_finalized(connection)

    def _record(self, present: StripeAccount) -> StripeAccount:
        with self._ledger.writing() as connection:
            return record_account(connection, present, datetime.now(UTC))


async def _account_id(send: Send) -> str | None:
    try:
        answer = await send("GET /v1/account", "get", "/v1/account", optional=True)
    except StripeProblem as problem:
        if problem.forbidden:
            return None
        raise
    account_id: str | None = answer.object.get("id")
    return account_id


async def _require_invoice(send: Send, invoice_id: str, present: StripeAccount) -> None:
    """Refuse an account that does not have an invoice of the ledger's."""
    try:
        await send(RETRIEVE, "get", f"/v1/invoices/{invoice_id}")
    except StripeProblem as problem:
        if problem.kind is not Kind.MISSING:
            raise
        raise StripeAccountError(
            f"Invoice {invoice_id}, which this ledger made, does not exist in the Stripe account of "
            f"STRIPE_API_KEY ({present}).",
            remedy="Use the key of the account that was billed, or give this account a ledger of its own "
            "(DATABASE_URL).",
        ) from None


def _require_same(recorded: StripeAccount, present: StripeAccount) -> None:
    if not recorded.is_other_than(present):
        return
    raise StripeAccountError(
        f"This ledger bills {recorded}, and STRIPE_API_KEY is of {present}.",
        remedy="Put the former key back; or, if that was a rehearsal, run `spell-billing forget-rehearsal`."
        if recorded.mode == "test"
        else "Put the former key back, or give the other account a ledger of its own (DATABASE_URL).",
    )
