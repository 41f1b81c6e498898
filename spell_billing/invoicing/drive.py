"""Drives one bill to a finalized invoice: create, add lines, verify, finalize, each step durable.

Finalize is the commit point: it succeeds once per invoice id. The idempotency key never changes while an
outcome is unknown; only after Stripe was asked does a bill get its next request attempt.

Keys are tried from the first on. One is passed over for what Stripe has stored under it (a failure, other
content, a draft that is gone), never for what one ledger alone knows: two ledgers at one account
meet at the same key and get the same draft.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from spell_billing.core.keys import HASH
from spell_billing.core.money import format_money, step_cents
from spell_billing.core.outcomes import Reason, State
from spell_billing.core.terms import ON
from spell_billing.invoicing import lookups, requests
from spell_billing.invoicing.adoption import charged_cents, standing
from spell_billing.invoicing.commits import GroupCommit
from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.payment_facts import payment_beside
from spell_billing.ledger.payments import Payment
from spell_billing.ledger.rows import Bill, Change
from spell_billing.stripe_api.client import Answer, Invoice
from spell_billing.stripe_api.problems import Kind, StripeProblem

_BUILDS = 2
"""A draft that does not show the ledger's lines is deleted and built anew, once in a run."""

_FRESH_FAILURES = 3
"""So often a step gets another key because Stripe stored a failure in this run; older ones do not count."""


class Unfinished(Exception):  # noqa: N818 - not an error: the next run asks Stripe
    """The bill's outcome is unknown or must wait; its row stays for the next run."""


@dataclass(slots=True)
class Drive:
    """Drives one bill. `bill` is always what the ledger durably holds."""

    gateway: Gateway
    commits: GroupCommit
    bill: Bill
    _current: Invoice | None = None
    _finalizing_request: str | None = None

    async def run(self) -> Bill:
        """Drive a planned or drafted bill until it is invoiced, failed with its reason, or parked.

        Raises:
            Unfinished: the outcome is unknown; a later run resolves it.
        """
        try:
            return await self._drive()
        except StripeProblem as problem:
            if problem.kind is Kind.KEY_CONFLICT:
                raise Unfinished(f"{Reason.CONFLICTING_REQUEST}: {problem.message}") from None
            raise Unfinished(problem.message) from None

    async def _drive(self) -> Bill:
        try:
            for _ in range(_BUILDS):
                await self._build()
                if self.bill.state is not State.PLANNED:
                    return self.bill
            return await self._fail(Reason.LINES_DIFFER, self.bill.message)
        except StripeProblem as problem:
            if problem.kind not in {Kind.PERMANENT, Kind.MISSING}:
                raise
            return await self._fail(problem.reason, problem.message, problem.request_id)

    async def _build(self) -> None:
        """Go from planned or drafted to an outcome; still planned means: build anew."""
        if self.bill.state is State.PLANNED:
            await self._create()
        invoice = await self._stands()
        if invoice is not None and invoice["status"] == "draft":
            invoice = await self._fill(invoice)
            if invoice is not None and invoice["status"] == "draft":
                invoice = await self._finalize(invoice)
        if invoice is not None:
            await self._settle(invoice)

    async def _create(self) -> None:
        """Make sure that there is a draft and that the ledger knows its id."""
        if self.bill.request_attempt > 1 and await self._adopt_existing():
            return
        number, fresh_failures = 1, 0
        while True:
            key, body = requests.create_key(self.bill, number), requests.create_parameters(self.bill)
            try:
                answer = await self.gateway.send(requests.CREATE, body, key=key)
            except StripeProblem as problem:
                if problem.kind not in {Kind.STUCK, Kind.KEY_CONFLICT, Kind.TRANSIENT}:
                    raise
                if await self._adopt_existing():
                    return
                fresh_failures += problem.fresh
                if problem.kind is Kind.TRANSIENT or fresh_failures > _FRESH_FAILURES:
                    raise
                why = problem.message
            else:
                current = await self._as_it_is(answer)
                if current is not None:
                    self._current = current
                    await self._record_draft(current, answer.request_id)
                    return
                if await self._adopt_existing():
                    return
                why = "it replays a draft that was deleted"
            number += 1
            await self._store_attempt(number, f"the key is used up: {why}")

    async def _stands(self) -> Invoice | None:
        """Return the invoice that the ledger's row names; park the bill when it is gone."""
        current = self._current if self._current is not None else await self._retrieve()
        # Another ledger at this account may have built it anew.
        if current is None and await self._adopt_existing():
            current = self._current
        self._current = None
        if current is None:
            await self._park(Reason.DELETED_AT_STRIPE)
        return current

    async def _fill(self, invoice: Invoice) -> Invoice | None:
        """Make sure that the draft shows the ledger's lines and total; None: it did not and is deleted."""
        lines = await lookups.all_lines(self.gateway, invoice)
        if not lines:
            filled = await self._step(requests.ADD_LINES, requests.lines_parameters(self.bill))
            if filled is None or filled["status"] != "draft":
                return filled
            invoice, lines = filled, await lookups.all_lines(self.gateway, filled)
        wrong = requests.difference(self.bill, invoice, lines) or requests.misnamed(self.bill, invoice)
        if wrong is None:
            return invoice
        why = f"the draft shows {wrong}"
        after = replace(self.bill, state=State.PLANNED, stripe_invoice_id=None, message=why)
        after = replace(after, request_attempt=after.request_attempt + 1)
        await self._write(after, "next_attempt", why)
        await lookups.delete_draft(self.gateway, invoice["id"])
        return None

    async def _finalize(self, draft: Invoice) -> Invoice | None:
        if self.bill.request_attempt > 1:
            others = [each for each in await self._ours() if each["id"] != self.bill.stripe_invoice_id]
            if others:
                raise Unfinished(f"another invoice of this bill stands at Stripe: {others[0]['id']}")
        try:
            return await self._step(requests.FINALIZE, requests.FINALIZE_PARAMETERS)
        except StripeProblem as problem:
            if problem.reason is Reason.REJECTED and int(draft["amount_due"]) % step_cents(
                self.bill.currency
            ):
                problem.reason = Reason.OFF_STEP
            if problem.reason is not Reason.TAX_LOCATION or self.bill.parsed_terms.tax != ON:
                raise
            await self._write(self.bill, "tax_left_out", problem.message)
        untaxed = await self._step(requests.LEAVE_TAX_OUT, requests.UNTAXED_PARAMETERS)
        if untaxed is None or untaxed["status"] != "draft":
            return untaxed
        return await self._step(requests.FINALIZE, requests.FINALIZE_PARAMETERS)

    async def _step(self, endpoint: str, parameters: Mapping[str, Any]) -> Invoice | None:
        """Send a step on the draft; where its answer does not settle it, ask what became of the draft.

        A key that replays a failure is passed over for the next one of the same draft, from the first on:
        every process that works on this draft sends the same keys, so the step happens once. None means that
        the draft is gone and the bill is parked.
        """
        number, fresh_failures = 1, 0
        while True:
            key = requests.step_key(self.bill, requests.STEPS[endpoint], number)
            try:
                invoice_id = str(self.bill.stripe_invoice_id)
                answer = await self.gateway.send(endpoint, parameters, key=key, invoice=invoice_id)
            except StripeProblem as problem:
                if problem.kind not in {Kind.STUCK, Kind.PERMANENT, Kind.MISSING}:
                    raise
                current = await self._retrieve()
                if current is None or requests.is_done(endpoint, current):
                    return await self._or_its_successor(current)
                fresh_failures += problem.fresh
                if problem.kind is not Kind.STUCK or fresh_failures > _FRESH_FAILURES:
                    raise
                number += 1
                await self._store_attempt(number, f"the key is used up: {problem.message}")
            else:
                if endpoint == requests.FINALIZE:
                    self._finalizing_request = answer.request_id
                return await self._or_its_successor(await self._as_it_is(answer))

    async def _or_its_successor(self, current: Invoice | None) -> Invoice | None:
        """Return what stands in the place of a draft that is gone; a new draft is left to the next run."""
        if current is None:
            current = await self._stands()
            if current is not None and current["status"] == "draft":
                raise Unfinished(f"the draft was replaced by {current['id']}")
        return current

    async def _settle(self, invoice: Invoice) -> None:
        """Record what became of the invoice that Stripe no longer has as a draft."""
        if invoice["status"] not in lookups.STATE_OF_STATUS:
            await self._park(Reason.VOIDED_AT_STRIPE)
            return
        wrong = requests.difference(self.bill, invoice, await lookups.all_lines(self.gateway, invoice))
        if wrong is not None:
            there = format_money(charged_cents(self.bill.parsed_terms, invoice), str(invoice["currency"]))
            billed = format_money(self.bill.total_cents, self.bill.currency)
            words = f"{there} at Stripe ({invoice['status']}), {billed} billed: Stripe shows {wrong}"
            await self._park(Reason.CHANGED_AT_STRIPE, words)
            return
        # No request where the answer was lost: another one told what became of the invoice.
        columns = standing(invoice, self.bill) | {"stripe_request_id": self._finalizing_request}
        after = replace(self.bill, **columns)
        await self._write(after, "finalized", payment=payment_beside(after, invoice))

    async def _adopt_existing(self) -> bool:
        """Ask Stripe for an invoice of this bill, and take up the one it has."""
        ours = await self._ours()
        if not ours:
            return False
        if len(ours) > 1 or ours[0]["metadata"].get(HASH) != self.bill.lines_hash:
            raise Unfinished(
                f"Stripe has other invoices of this bill: {', '.join(each['id'] for each in ours)}"
            )
        self._current = ours[0]
        await self._record_draft(ours[0], None)
        return True

    async def _as_it_is(self, answer: Answer) -> Invoice | None:
        """Return the invoice of an answer; a replayed body is as old as its key, so Stripe is asked then."""
        return await lookups.retrieve(self.gateway, answer.object["id"]) if answer.replayed else answer.object

    async def _record_draft(self, invoice: Invoice, request_id: str | None) -> None:
        ids = {"stripe_invoice_id": invoice["id"], "stripe_request_id": request_id}
        await self._write(replace(self.bill, state=State.DRAFTED, **ids), "draft_created")

    async def _store_attempt(self, number: int, why: str) -> None:
        """Make the number of a key durable before the key is used for the first time."""
        if number > self.bill.request_attempt:
            await self._write(replace(self.bill, request_attempt=number, message=why), "next_attempt", why)

    async def _fail(self, reason: Reason, message: str | None, request_id: str | None = None) -> Bill:
        """Record why this user cannot be billed, and leave no draft behind."""
        draft_id = self.bill.stripe_invoice_id
        if draft_id is not None:
            # Failed only once the draft is gone: nothing looks for the drafts of a failed bill.
            refused = replace(self.bill, state=State.PLANNED, stripe_invoice_id=None, message=message)
            await self._write(refused, "draft_refused", message)
            if not await lookups.delete_draft(self.gateway, draft_id):
                raise Unfinished(f"{draft_id} was finalized by another process")
        after = replace(
            self.bill, state=State.FAILED, reason=reason, message=message, stripe_request_id=request_id
        )
        await self._write(after, "failed", message)
        return self.bill

    async def _park(self, reason: Reason, message: str | None = None) -> None:
        parked = replace(self.bill, state=State.PARKED, reason=reason, message=message)
        await self._write(parked, "parked", message)

    async def _write(
        self, after: Bill, action: str, detail: str | None = None, *, payment: Payment | None = None
    ) -> None:
        self.bill = await self.commits.write(Change(self.bill, after, action, detail, payment))

    async def _ours(self) -> list[Invoice]:
        return await lookups.invoices_of_bill(self.gateway, self.bill)

    async def _retrieve(self) -> Invoice | None:
        return await lookups.retrieve(self.gateway, str(self.bill.stripe_invoice_id))
