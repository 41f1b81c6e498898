"""What a restricted key must be allowed at Stripe, and what Stripe's refusal says that it lacks."""

import re
from dataclasses import dataclass

_REFUSED = re.compile(r"'(?:rak_)?([a-z_]+)_(read|write)'")
"""Stripe names what is missing as `'rak_invoice_write'`, or as `"Invoices Write" ('invoice_write')`."""


@dataclass(frozen=True, slots=True)
class Permission:
    """One row of the form for restricted keys; `name` is Stripe's own, without the `rak_` before it."""

    name: str
    row: str
    purpose: str

    @property
    def level(self) -> str:
        """What to choose in the row."""
        return "Write" if self.name.endswith("_write") else "Read"

    def __str__(self) -> str:
        return f"{self.row}: {self.level} ({self.name})"


PERMISSIONS = (
    Permission("invoice_write", "Invoices", "making, finalizing, voiding, collecting and reading invoices"),
    Permission("charge_read", "Charges and Refunds", "refunds, and proving what was received"),
    Permission("dispute_read", "Disputes", "how disputes stand"),
    Permission("payment_intent_read", "Payment Intents", "why a payment failed"),
    Permission("credit_note_write", "Credit notes", "`credit`, and following credit notes"),
    Permission("event_read", "Events", "following what happens at Stripe"),
    Permission("customer_read", "Customers", "`readiness`: who has no payment method"),
    Permission("customer_portal_write", "Customer portal", "the link by which users add a card"),
)
"""All that the product asks for. Write includes read. `GET /v1/account` is asked without being needed."""

KEY_FORM = "https://dashboard.stripe.com/apikeys/create?name=spell-billing&" + "&".join(
    f"permissions[{number}]=rak_{each.name}" for number, each in enumerate(PERMISSIONS)
)
"""Stripe's form for a restricted key, with the permissions chosen. Stripe does not document the address."""


def missing_permission(message: str) -> str | None:
    """Return what a key lacks, as Stripe's form calls it where that is known; None where no words say so."""
    found = _REFUSED.search(message)
    if found is None:
        return None
    resource, level = found.groups()
    ours = (str(each) for each in PERMISSIONS if each.name.rpartition("_")[0] == resource)
    return next(ours, f"{resource}_{level}")
