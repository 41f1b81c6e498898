"""Revising a finalized invoice, as the dashboard does: https://docs.stripe.com/invoicing/invoice-edits."""

from dataclasses import replace
from typing import Any

from spell_billing.stripe_double.account import Account
from spell_billing.stripe_double.errors import ApiError
from spell_billing.stripe_double.objects import Invoice
from spell_billing.stripe_double.payment import void

REVISABLE = frozenset({"open", "uncollectible"})


def draft_revision(account: Account, source: dict[str, Any]) -> Invoice:
    """Return a new draft with the lines of an invoice, linked to it.

    Raises:
        ApiError: when the invoice is of another status than open or uncollectible.
    """
    original = account.invoices.get(source["invoice"], param="from_invoice[invoice]")
    if original.status not in REVISABLE:
        raise ApiError(400, f"You can't revise an invoice that is {original.status}.", param="from_invoice")
    return Invoice(
        id=account.new_id("in"),
        customer=original.customer,
        customer_email=original.customer_email,
        customer_name=original.customer_name,
        created=account.clock.unix(),
        currency=original.currency,
        description=original.description,
        footer=original.footer,
        metadata=original.metadata,
        collection_method=original.collection_method,
        due_date=original.due_date,
        custom_fields=original.custom_fields,
        automatic_tax=original.automatic_tax,
        discount=original.discount,
        discount_percent=original.discount_percent,
        lines=tuple(
            replace(line, id=account.new_id("il"), item=account.new_id("ii")) for line in original.lines
        ),
        from_invoice=original.id,
        test_clock=original.test_clock,
    )


def void_original(account: Account, revision: Invoice) -> None:
    """Void what a revision replaces, right before the revision is finalized.

    Raises:
        ApiError: when the original was paid or voided since.
    """
    original = account.invoices.get(str(revision.from_invoice))
    if original.status not in REVISABLE:
        raise ApiError(400, f"The original of this revision is {original.status} by now.")
    void(account, original, revision=revision.id)
