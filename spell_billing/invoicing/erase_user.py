"""Erases a user: a pseudonym takes the place of the id at Stripe, in the frozen usage and in the ledger.

The pseudonym is written down first. Each step can be repeated, and the ledger, which alone knows that an
erasure is under way, changes last, in one transaction.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from spell_billing.core.erasure import Erasure, is_pseudonym, new_pseudonym
from spell_billing.core.errors import LedgerError
from spell_billing.core.keys import GENERATION, KEY, LONGEST_METADATA, MONTH, USER, billing_key
from spell_billing.core.late import LATE_USAGE_MONTHS
from spell_billing.core.month import Month
from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.lookups import asking, created_since_close, retrieve
from spell_billing.ledger.browsing import has_bill
from spell_billing.ledger.erasing import (
    begin_erasure,
    erase_in_ledger,
    open_matters,
    require_audit_can_be_rewritten,
    unfinished_erasure,
)
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Actor
from spell_billing.ledger.schema import invoices, months
from spell_billing.stripe_api.client import Invoice
from spell_billing.stripe_api.problems import Kind, StripeProblem
from spell_billing.usage.erasing import erase_in_store, names_user
from spell_billing.usage.store import UsageStore

_WAIT_SECONDS = 10.0
"""A person waits no longer for a run that is at one of the user's months."""


@contextmanager
def erasing(
    ledger: Ledger,
    store: UsageStore,
    user_id: str,
    *,
    at_platform: Callable[[Month], bool],
    now: datetime,
    known_as: str | None = None,
) -> Iterator["Erasing"]:
    """Begin to erase a user, or go on with what was interrupted, while nobody else bills the user's months.

    `at_platform` tells whether the platform still has an account of the user, or calls from a month on.
    `known_as` is the pseudonym the user got before, where the ledger is a backup from before that erasure.

    Raises:
        LedgerError: when the user is unknown, something is open, or the pseudonym is another user's.
    """
    with ledger.reading() as connection:
        columns = (invoices.c.month, invoices.c.stripe_customer_id, invoices.c.stripe_invoice_id)
        bills = connection.execute(sa.select(*columns).where(invoices.c.user_id == user_id)).all()
        require_audit_can_be_rewritten(connection)
    with ExitStack() as locks:
        for what in (*sorted({bill.month for bill in bills}), "drafting", "payments", "mail"):
            locks.enter_context(ledger.exclusive(what, wait_seconds=_WAIT_SECONDS))
        with ledger.writing() as connection:
            erasure = unfinished_erasure(connection, user_id)
            if erasure is None:
                _require_known(connection, store, user_id)
                if known_as is None:
                    _require_gone(connection, user_id, at_platform, now)
                # Whatever is open in the backup was closed before: under the pseudonym a sweep finds it.
                elif not is_pseudonym(known_as) or has_bill(connection, known_as):
                    raise LedgerError(
                        f"{known_as} is not the pseudonym of a user whom this ledger has under the old id.",
                        remedy="Name the one in the metadata of the user's invoices at Stripe, or leave "
                        "out --as.",
                    )
                erasure = Erasure(user_id, known_as or new_pseudonym())
                begin_erasure(connection, erasure)
        yield Erasing(ledger, store, erasure, bills)


@dataclass
class Erasing:
    """The steps of an erasure, in their order. Each may be repeated."""

    ledger: Ledger
    store: UsageStore
    erasure: Erasure
    bills: Sequence[Any]
    invoices: int = 0
    versions: int = 0

    @property
    def is_at_stripe(self) -> bool:
        """Whether Stripe may know of the user."""
        return any(bill.stripe_customer_id or bill.stripe_invoice_id for bill in self.bills)

    async def at_stripe(self, gateway: Gateway) -> None:
        """Give every invoice of the user the pseudonym's name: a sweep finds it under that alone."""
        with asking(
            f"Stripe did not take the pseudonym of user {self.erasure.user_id}",
            remedy="Run the command again; it goes on where it stopped.",
        ):
            async for invoice in self._invoices(gateway):
                metadata = invoice["metadata"]
                key = billing_key(metadata[MONTH], self.erasure.pseudonym, int(metadata[GENERATION]))
                renamed = {"metadata": {KEY: key, USER: self.erasure.pseudonym}}
                await gateway.send("POST /v1/invoices/{invoice}", renamed, invoice=invoice["id"])
                self.invoices += 1

    def in_frozen_usage(self, now: datetime) -> None:
        """Replace the id in the frozen files; altered or damaged ones are an IntegrityError or UsageError."""
        self.versions = erase_in_store(self.store, self.erasure, until=Month.containing(now).previous())

    def in_ledger(self, actor: Actor, now: datetime) -> None:
        """Replace the id in the ledger, and be done."""
        detail = (
            f"{len(self.bills)} bills, {self.invoices} invoices at Stripe, {self.versions} frozen versions"
        )
        self.ledger.write(erase_in_ledger, self.erasure, actor=actor, detail=detail, now=now)

    async def _invoices(self, gateway: Gateway) -> AsyncIterator[Invoice]:
        """Return the invoices that carry the user's name: the ledger's, and what else the customers have."""
        since: dict[str, Month] = {}
        for bill in sorted(self.bills, key=lambda each: str(each.month)):
            if bill.stripe_customer_id:
                since.setdefault(bill.stripe_customer_id, Month.parse(bill.month))
        seen: set[str] = set()
        for customer_id, first in sorted(since.items()):
            listed = gateway.invoices(customer=customer_id, created=created_since_close(first))
            try:
                found = [invoice async for page in listed for invoice in page]
            except StripeProblem as problem:
                if problem.kind not in {Kind.MISSING, Kind.PERMANENT}:
                    raise
                # A customer whom Stripe does not know, as with a bill that failed for it.
                continue
            seen.update(invoice["id"] for invoice in found)
            for invoice in filter(self._is_named, found):
                yield invoice
        known = {bill.stripe_invoice_id for bill in self.bills if bill.stripe_invoice_id}
        for invoice_id in sorted(known - seen):
            single = await retrieve(gateway, invoice_id)
            if single is not None and self._is_named(single):
                yield single

    def _is_named(self, invoice: Invoice) -> bool:
        metadata = invoice["metadata"] or {}
        user_id, month, generation = (metadata.get(name, "") for name in (USER, MONTH, GENERATION))
        if user_id != self.erasure.user_id[:LONGEST_METADATA] or not generation.isdecimal():
            return False
        return bool(metadata.get(KEY) == billing_key(month, self.erasure.user_id, int(generation)))


def _require_known(connection: sa.Connection, store: UsageStore, user_id: str) -> None:
    if is_pseudonym(user_id):
        raise LedgerError(f"User {user_id} is erased already.", remedy="Nothing is left to do.")
    if not has_bill(connection, user_id) and not names_user(store, user_id):
        raise LedgerError(
            f"User {user_id} has no bill and no frozen usage.",
            remedy="Check the id: it must be written as in usage_counters. For a user who was erased, "
            "nothing is left to do.",
        )


def _require_gone(
    connection: sa.Connection, user_id: str, at_platform: Callable[[Month], bool], now: datetime
) -> None:
    """Refuse a user of whom something is open, or whose rows some later bill may still look at."""
    matters = open_matters(connection, user_id)
    if matters:
        raise LedgerError(
            f"User {user_id} cannot be erased yet: {'; '.join(matters)}.",
            remedy="Close this first: bill the month (with --verify it asks Stripe for payments), or use "
            "`spell-billing settle`, `spell-billing void --for-good` or `spell-billing revoke-grant`.",
        )
    pinned = sa.select(sa.func.max(months.c.month)).where(months.c.billing_started_at.is_not(None))
    last, first = connection.scalar(pinned), Month.containing(now).plus(-LATE_USAGE_MONTHS)
    if last:
        first = min(first, Month.parse(last).plus(1 - LATE_USAGE_MONTHS))
    if at_platform(first):
        raise LedgerError(
            f"The platform still has an account of user {user_id}, or calls since {first}.",
            remedy="Delete the user's rows in billing_accounts and usage_counters first; otherwise "
            "they would be billed again, as those of an unknown user.",
        )
