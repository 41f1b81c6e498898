"""The sweep: before anything is sent, take into the ledger whatever of the month already stands at Stripe.

This one step recovers every crash, expired keys, a restored ledger and an empty one. It writes to Stripe
only to delete drafts of ours that no bill in the ledger can use.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from operator import itemgetter
from typing import Any

from spell_billing.core.keys import GENERATION, HASH, KEY, MONTH, USER, billing_key, invoice_metadata
from spell_billing.core.late import BillOf, Usage
from spell_billing.core.outcomes import INVOICED, UNSENT, Reason, State
from spell_billing.invoicing import adoption, lookups
from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.payment_facts import bill_named_by, bill_of_key
from spell_billing.invoicing.report import SweepResult
from spell_billing.ledger.rows import Bill, Change
from spell_billing.ledger.session import MonthSession
from spell_billing.stripe_api.client import Invoice


async def sweep(
    session: MonthSession,
    gateway: Gateway,
    pin: Callable[[], Awaitable[object]],
    recorded: Callable[[], Mapping[BillOf, Usage]],
    from_before: Callable[[], None],
) -> SweepResult:
    """Bring the month's ledger up to what Stripe has; where it has invoices of the month, pin it first.

    `recorded` reads the differences to earlier bills that were recorded with the frozen month or since;
    `from_before` is called before an invoice is adopted that was finalized without this ledger. What was
    adopted when Stripe stops answering is durable and correct.
    """
    work = _Sweep(session, gateway, cache(recorded), from_before)
    async for page in gateway.invoices(created=lookups.created_since_close(session.month)):
        work.result.listed += len(page)
        # By its id too: metadata can be cleared in the dashboard.
        known = await asyncio.to_thread(session.bills_of_invoices, [invoice["id"] for invoice in page])
        ours = [
            invoice
            for invoice in page
            if invoice["metadata"].get(MONTH) == str(session.month) or invoice["id"] in known
        ]
        if ours:
            await pin()
            await work.take(ours, known)
    await work.finish()
    return work.result


@dataclass
class _Sweep:
    session: MonthSession
    gateway: Gateway
    recorded: Callable[[], Mapping[BillOf, Usage]]
    from_before: Callable[[], None]
    result: SweepResult = field(default_factory=SweepResult)
    _started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    _void: list[Invoice] = field(default_factory=list)
    _twice: dict[Bill, list[Invoice]] = field(default_factory=dict)
    _parked: set[Bill] = field(default_factory=set)
    _rivals: list[Invoice] = field(default_factory=list)
    _revisions: list[Invoice] = field(default_factory=list)
    # Deleted only after the last page: Stripe refuses a cursor whose object is gone.
    _useless_drafts: list[str] = field(default_factory=list)

    async def take(self, invoices: Sequence[Invoice], known: dict[str, Bill]) -> None:
        """Sort invoices that name the month, or that the ledger knows by their id, into the ledger."""
        invoices = [await self._named_again(each, known.get(each["id"])) for each in invoices]
        users = {invoice["metadata"].get(USER, "") for invoice in invoices}
        bills = await asyncio.to_thread(self.session.bills_of_users, users)
        by_key = {billing_key(bill.month, bill.user_id, bill.generation): bill for bill in bills}
        for invoice in invoices:
            key = invoice["metadata"].get(KEY, "")
            changed = await self._sort(invoice, by_key.get(key))
            if changed is not None:
                by_key[key] = changed

    async def finish(self) -> None:
        """Delete drafts nobody can use, and decide what only the whole list tells."""
        for invoice in self._rivals:
            await self._choose_draft(invoice)
        for invoice_id in self._useless_drafts:
            await self._delete(invoice_id)
        for invoice in self._revisions:
            await self._follow_revision(invoice)
        for bill, twins in self._twice.items():
            # Parked by an earlier sweep, and a person has voided all but one since.
            if len(twins) == 1 and bill not in self._parked:
                await self._adopt(twins[0], bill)
        for invoice in self._void:
            await self._voided(invoice)
        for bill in await asyncio.to_thread(self.session.superseded):
            if bill.state is State.DRAFTED:
                await self._delete(str(bill.stripe_invoice_id))
            await self._write(bill, "superseded", state=State.VOID, reason=Reason.VOIDED)

    async def _named_again(self, invoice: Invoice, bill: Bill | None) -> Invoice:
        """Write back the metadata that names the bill, where somebody cleared or changed it.

        Return the invoice with the metadata that names `bill`, which is the ledger's by the invoice's id.
        """
        if bill is None:
            return invoice
        metadata = invoice_metadata(bill.month, bill.user_id, bill.generation, bill.lines_hash, bill.calls)
        if all(invoice["metadata"].get(name) == metadata[name] for name in (KEY, MONTH, USER, GENERATION)):
            return invoice
        if invoice["status"] in lookups.STATE_OF_STATUS and bill.state in INVOICED:
            endpoint = "POST /v1/invoices/{invoice}"
            await self.gateway.send(endpoint, {"metadata": metadata}, invoice=invoice["id"])
            await self._apply(bill, bill, "metadata_restored")
            self.result.renamed.append(f"{invoice['id']} of user {bill.user_id}")
        return {**invoice, "metadata": {**invoice["metadata"], **metadata}}

    async def _sort(self, invoice: Invoice, bill: Bill | None) -> Bill | None:
        """Sort one invoice; gives the bill where it was changed."""
        if invoice["status"] == "draft":
            return await self._draft(invoice, bill)
        if invoice["status"] == "void":
            self._void.append(invoice)
        elif bill is None:
            return await self._adopt_unknown(invoice)
        elif adoption.is_revision_of_another(invoice, bill):
            self._revisions.append(invoice)
        elif bill.state in UNSENT | {State.DRAFTED} or bill.reason is Reason.DELETED_AT_STRIPE:
            # A run commits the id before it finalizes: one that was killed leaves no other.
            if bill.stripe_invoice_id not in {invoice["id"], adoption.revised_from(invoice) or invoice["id"]}:
                await self._is_from_before()
            return await self._adopt(invoice, bill)
        elif bill.reason is Reason.TWO_INVOICES:
            self._twice.setdefault(bill, []).append(invoice)
        elif bill.stripe_invoice_id == invoice["id"] and bill.state is not State.SETTLED:
            return await self._follow(invoice, bill)
        else:
            return await self._park_both(invoice, bill)
        return None

    async def _is_from_before(self) -> None:
        if not self.result.is_from_before:
            await asyncio.to_thread(self.from_before)
            self.result.is_from_before = True

    async def _park_both(self, invoice: Invoice, bill: Bill) -> Bill:
        if bill.state is not State.SETTLED:
            both = f"{bill.stripe_invoice_id} and {invoice['id']}"
            return await self._park(bill, Reason.TWO_INVOICES, both)
        both = f"settled as {bill.reason}, but {invoice['id']} stands"
        return await self._park(bill, Reason.CHANGED_AT_STRIPE, both, stripe_invoice_id=invoice["id"])

    async def _draft(self, invoice: Invoice, bill: Bill | None) -> Bill | None:
        """Take up the draft that the ledger can use; delete others of ours, but none that a person edits."""
        if adoption.revised_from(invoice):
            return None
        invoice_id, lines_hash = invoice["id"], invoice["metadata"].get(HASH)
        if bill is not None and bill.stripe_invoice_id == invoice_id and bill.state is State.DRAFTED:
            return None
        if bill is not None and bill.state is State.DRAFTED and bill.lines_hash == lines_hash:
            self._rivals.append(invoice)
            return None
        if bill is not None and bill.state is State.PLANNED:
            if bill.lines_hash == lines_hash:
                self.result.drafts_taken_up += 1
                return await self._write(
                    bill, "draft_taken_up", state=State.DRAFTED, stripe_invoice_id=invoice_id
                )
            # Its key made other content than the ledger holds now: it is used up.
            why, attempt = "a draft with other content", bill.request_attempt + 1
            bill = await self._write(bill, "next_attempt", why, request_attempt=attempt)
        self._useless_drafts.append(invoice_id)
        return bill

    async def _choose_draft(self, invoice: Invoice) -> None:
        """Of two drafts with the bill's lines keep the older, as every ledger at this account does."""
        bill, age = await self._bill_of(invoice), itemgetter("created", "id")
        useless: Invoice | None = invoice
        if bill is not None and bill.state is State.DRAFTED:
            own = await lookups.retrieve(self.gateway, str(bill.stripe_invoice_id))
            if own is None or age(invoice) < age(own):
                self.result.drafts_taken_up += 1
                await self._write(bill, "draft_taken_up", stripe_invoice_id=invoice["id"])
                useless = own
        if useless is not None:
            self._useless_drafts.append(useless["id"])

    async def _adopt(self, invoice: Invoice, bill: Bill) -> Bill:
        """Take over a finalized invoice: what Stripe has is what was billed."""
        other_draft = bill.stripe_invoice_id if bill.stripe_invoice_id != invoice["id"] else None
        same_bill = invoice["metadata"].get(HASH) == bill.lines_hash
        self.result.adopted += 1
        if adoption.revised_from(invoice) and same_bill:
            adopted = await self._apply(bill, adoption.as_it_stands(bill, invoice), "adopted")
        else:
            content: dict[str, Any] = {}
            detail = None
            if not same_bill or adoption.charged_cents(bill.parsed_terms, invoice) != bill.total_cents:
                content = await self._content(invoice, bill)
                detail = adoption.adoption_detail(bill, content)
            columns = adoption.standing(invoice, bill) | content
            adopted = await self._write(bill, "adopted", detail, **columns)
        if other_draft is not None:
            self._useless_drafts.append(other_draft)
        return await self._follow(invoice, adopted) or adopted

    async def _follow_revision(self, invoice: Invoice) -> None:
        """Follow an invoice that a person edited to its latest revision; what was given away stays given."""
        bill = await self._bill_of(invoice)
        if bill is None or bill.stripe_invoice_id == invoice["id"]:
            return
        replaced = bill.stripe_invoice_id in adoption.predecessors(invoice, self._void)
        if not replaced or bill.currency != invoice["currency"]:
            await self._park_both(invoice, bill)
            return
        detail = f"{bill.stripe_invoice_id} was edited at Stripe"
        revised = await self._apply(bill, adoption.as_it_stands(bill, invoice), "revised", detail)
        self.result.revised.append(f"{invoice['id']} of user {bill.user_id}")
        await self._follow(invoice, revised)

    async def _delete(self, invoice_id: str) -> None:
        """Delete a draft; one that was finalized meanwhile by another ledger is adopted by the next run."""
        if await lookups.delete_draft(self.gateway, invoice_id):
            self.result.drafts_deleted += 1

    async def _adopt_unknown(self, invoice: Invoice) -> Bill | None:
        name = bill_named_by(invoice)
        if name is None:
            self.result.unknown.append(invoice["id"])
            return None
        await self._is_from_before()
        # An earlier generation holds the user's frozen usage where a lost ledger had voided it.
        bills = await self._bills_of_user(invoice)
        latest = max(bills, key=lambda bill: bill.generation, default=None)
        frozen = latest if latest is not None and latest.generation < name.generation else None
        if frozen is not None:
            # A restored ledger lacks what was recorded for the later one.
            frozen = adoption.with_recorded(frozen, await asyncio.to_thread(self.recorded))
        content = await self._content(invoice, frozen)
        values = adoption.new_bill_of(name, frozen, content) | adoption.standing(invoice, None)
        if frozen is None:
            detail = values["message"] = "found at Stripe; the ledger has no usage for it"
            self.result.unknown.append(invoice["id"])
        else:
            detail = adoption.adoption_detail(frozen, values)
            self.result.adopted += 1
        await asyncio.to_thread(self.session.insert, values, action="adopted", detail=detail)
        adopted = await self._bill_of(invoice)
        return adopted and (await self._follow(invoice, adopted) or adopted)

    async def _follow(self, invoice: Invoice, bill: Bill) -> Bill | None:
        """Follow the invoice's payment; what the ledger has heard later, from an event, stays."""
        payment = await lookups.payment_now(self.gateway, invoice, bill, as_of=self._started_at, way="sweep")
        same = payment.bill_state in {State.FINALIZED, bill.state}
        if bill.state not in INVOICED or (same and payment.amount_due_cents == bill.invoice_cents):
            return None
        await asyncio.to_thread(self.session.follow, payment)
        return await self._bill_of(invoice)

    async def _voided(self, invoice: Invoice) -> None:
        """Park a bill whose invoice a person voided, unless a later generation took its place."""
        bills = await self._bills_of_user(invoice)
        bill = bill_of_key(invoice, bills)
        if bill is None or bill.state in {State.VOID, State.PARKED, State.SETTLED}:
            return
        if bill.stripe_invoice_id not in {None, invoice["id"]}:
            if bill.state is not State.DRAFTED:
                return
            await self._delete(str(bill.stripe_invoice_id))
        change = adoption.voided_by_a_person(bill, bills, invoice["id"])
        await asyncio.to_thread(self.session.apply, [change])
        self.result.parked += change.after.state is State.PARKED

    async def _park(self, bill: Bill, reason: Reason, message: str | None = None, **values: Any) -> Bill:
        self.result.parked += 1
        values |= {"state": State.PARKED, "reason": reason, "message": message}
        parked = await self._write(bill, "parked", message, **values)
        self._parked.add(parked)
        return parked

    async def _content(self, invoice: Invoice, frozen: Bill | None) -> dict[str, Any]:
        lines = await lookups.all_lines(self.gateway, invoice)
        return adoption.adopted_content(invoice, lines, self.session.month, frozen)

    async def _bills_of_user(self, invoice: Invoice) -> list[Bill]:
        user_id = invoice["metadata"].get(USER, "")
        return await asyncio.to_thread(self.session.bills_of_users, {user_id})

    async def _bill_of(self, invoice: Invoice) -> Bill | None:
        return bill_of_key(invoice, await self._bills_of_user(invoice))

    async def _write(self, bill: Bill, action: str, detail: str | None = None, **values: Any) -> Bill:
        return await self._apply(bill, replace(bill, **values), action, detail)

    async def _apply(self, bill: Bill, after: Bill, action: str, detail: str | None = None) -> Bill:
        return (await asyncio.to_thread(self.session.apply, [Change(bill, after, action, detail)]))[0]
