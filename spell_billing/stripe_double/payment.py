"""Money of an invoice: what is due at finalization, balances, the customer's card, collection."""

from dataclasses import replace

from spell_billing.stripe_double.account import Account
from spell_billing.stripe_double.adjustments import require_location, taken_off_line_cents, tax_on
from spell_billing.stripe_double.currencies import is_chargeable, largest_cents, step_cents
from spell_billing.stripe_double.errors import ApiError, not_editable
from spell_billing.stripe_double.objects import Charge, Customer, Invoice

CARD = "double_card"
"""Customer metadata that decides what the card does: ok, declined, insufficient_funds, none."""

CARDS = ("ok", "declined", "insufficient_funds", "none")

RETRY_SECONDS = 3 * 24 * 3600
MAX_ATTEMPTS = 4
DRAFT_SECONDS = 3600
"""How long Stripe leaves a draft with `auto_advance` before it finalizes it by itself."""

_DECLINES = {"declined": "generic_decline", "insufficient_funds": "insufficient_funds"}


def with_draft_totals(account: Account, invoice: Invoice) -> Invoice:
    """Return a draft with its total after discount and tax, and what would be due if finalized now."""
    customer = account.customers.get(invoice.customer)
    subtotal_cents = sum(line.amount_cents for line in invoice.lines)
    discount_cents = sum(taken_off_line_cents(line, invoice.discount_percent) for line in invoice.lines)
    taxable_cents = subtotal_cents - discount_cents
    tax_status, tax_cents = tax_on(customer, taxable_cents) if invoice.automatic_tax else (None, 0)
    total_cents = taxable_cents + tax_cents
    starting_cents = customer.balances_cents.get(invoice.currency, 0)
    due_cents = total_cents + starting_cents
    return replace(
        invoice,
        discount_cents=discount_cents,
        tax_status=tax_status,
        tax_cents=tax_cents,
        total_cents=total_cents,
        starting_balance_cents=starting_cents,
        amount_due_cents=due_cents if is_chargeable(due_cents, invoice.currency) else 0,
    )


def finalize(account: Account, invoice: Invoice, *, auto_advance: bool) -> Invoice:
    """Turn a draft into an open invoice, or a paid one when nothing can be charged for it.

    What is below the minimum charge, and what is negative, moves to the customer's balance.

    Raises:
        ApiError: when the invoice is no draft, or its total is more than can be charged.
    """
    if invoice.status != "draft":
        raise not_editable("This invoice is already finalized, you can't re-finalize a non-draft invoice.")
    draft = with_draft_totals(account, invoice)
    require_location(draft)
    largest = largest_cents(draft.currency)
    if abs(draft.total_cents) > largest:
        raise ApiError(f"Amount must be no more than {largest}.", code="amount_too_large")
    due_cents = draft.total_cents + draft.starting_balance_cents
    chargeable = is_chargeable(due_cents, invoice.currency)
    if chargeable and due_cents % step_cents(draft.currency):
        raise ApiError(
            f"The amount must be a multiple of {step_cents(draft.currency)} in {draft.currency}.",
            code="parameter_invalid_integer",
            param="amount",
        )
    ending_cents = 0 if chargeable else due_cents
    customer = account.shift_balance(
        invoice.customer, invoice.currency, ending_cents - draft.starting_balance_cents
    )
    now = account.unix()
    finalized = account.change(
        draft,
        "invoice.finalized",
        status="open" if chargeable else "paid",
        number=draft.number or _number(account, customer),
        finalized_at=now,
        effective_at=draft.effective_at or now,
        ending_balance_cents=ending_cents,
        auto_advance=auto_advance and chargeable,
        attempted=not chargeable,
        payment_intent=account.new_id("pi") if chargeable else None,
        paid_at=None if chargeable else now,
    )
    if not chargeable:
        emit_paid(account, finalized)
    return finalized


def _number(account: Account, customer: Customer) -> str:
    sequence = customer.next_invoice_sequence
    account.customers.put(replace(customer, next_invoice_sequence=sequence + 1))
    return f"{customer.id.removeprefix('cus_')[-12:].upper()}-{sequence:04}"


def void(account: Account, invoice: Invoice, *, revision: str | None = None) -> Invoice:
    """Void an invoice, for a revision or for good, and undo what it did to the customer's balance."""
    moved_cents = (invoice.ending_balance_cents or 0) - invoice.starting_balance_cents
    if moved_cents:
        account.shift_balance(invoice.customer, invoice.currency, -moved_cents)
    return account.change(
        invoice,
        "invoice.voided",
        status="void",
        auto_advance=False,
        next_payment_attempt=None,
        voided_at=account.unix(),
        latest_revision=revision,
    )


def pay_out_of_band(account: Account, invoice: Invoice) -> Invoice:
    """Mark an invoice paid without a charge."""
    return _paid(account, replace(invoice, paid_off_stripe_cents=invoice.amount_remaining_cents))


def attempt(account: Account, invoice: Invoice, *, automatic: bool) -> tuple[Invoice, str | None]:
    """Charge the customer's card once.

    Any attempt counts as the first; after it only automatic ones count.

    Returns:
        The invoice afterwards, and why it failed: `no_card`, a decline code, or None when it was paid.
    """
    card = account.customers.get(invoice.customer).metadata.get(CARD, "ok")
    counts = automatic or not invoice.attempt_count
    tried = replace(invoice, attempted=True, attempt_count=invoice.attempt_count + counts)
    if card == "ok":
        _charge(account, invoice)
        return _paid(account, replace(tried, next_payment_attempt=None)), None
    failure = _DECLINES.get(card, "no_card" if card == "none" else "generic_decline")
    if card != "none":
        _charge(account, invoice, failure)
    again = tried.auto_advance and tried.attempt_count < MAX_ATTEMPTS and tried.status == "open"
    if counts:
        tried = replace(tried, next_payment_attempt=account.unix() + RETRY_SECONDS if again else None)
    return account.change(tried, "invoice.payment_failed"), failure


def collect_if_due(account: Account, invoice: Invoice) -> None:
    """Collect automatically what Stripe would by now: a first attempt, or a retry whose time has come."""
    by_itself = invoice.auto_advance and invoice.collection_method == "charge_automatically"
    next_at = invoice.next_payment_attempt
    is_due = not invoice.attempted or (next_at is not None and account.unix() >= next_at)
    if invoice.status == "open" and by_itself and is_due:
        attempt(account, invoice, automatic=True)


def advance(account: Account) -> None:
    """Do what Stripe does in the background: finalize due automatic drafts, collect what is due."""
    account.request = (None, None)
    for invoice in account.invoices:
        current = invoice
        old_enough = account.unix() - invoice.created >= DRAFT_SECONDS
        if invoice.status == "draft" and invoice.auto_advance and old_enough:
            current = finalize(account, invoice, auto_advance=True)
        collect_if_due(account, current)


def _charge(account: Account, invoice: Invoice, decline_code: str | None = None) -> None:
    account.charges.put(
        Charge(
            id=account.new_id("ch"),
            customer=invoice.customer,
            created=account.unix(),
            amount_cents=invoice.amount_remaining_cents,
            currency=invoice.currency,
            invoice=invoice.id,
            payment_intent=invoice.payment_intent or account.new_id("pi"),
            failure_code=None if decline_code is None else "card_declined",
            decline_code=decline_code,
        )
    )


def _paid(account: Account, invoice: Invoice) -> Invoice:
    paid = account.put_invoice(
        replace(
            invoice,
            status="paid",
            auto_advance=False,
            amount_paid_cents=invoice.amount_paid_cents + invoice.amount_remaining_cents,
            paid_at=account.unix(),
        )
    )
    emit_paid(account, paid)
    return paid


def emit_paid(account: Account, invoice: Invoice) -> None:
    """Emit the two events of a payment."""
    account.emit("invoice.paid", invoice)
    account.emit("invoice.payment_succeeded", invoice)
