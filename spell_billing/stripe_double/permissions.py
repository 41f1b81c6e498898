"""What restricted keys are allowed: the permission that each operation asks for, by Stripe's names."""

from collections.abc import Mapping
from typing import Any

from spell_billing.stripe_double.errors import ApiError

_RESOURCES: Mapping[str, tuple[str, str]] = {
    "account": ("accounts_kyc_basic", "Accounts KYC Basic"),
    "billing_portal": ("customer_portal", "Customer portal"),
    "charges": ("charge", "Charges and Refunds"),
    "credit_notes": ("credit_note", "Credit Notes"),
    "customers": ("customer", "Customers"),
    "disputes": ("dispute", "Disputes"),
    "events": ("event", "Events"),
    "invoiceitems": ("invoice", "Invoices"),
    "invoices": ("invoice", "Invoices"),
    "refunds": ("charge", "Charges and Refunds"),
}
"""Of each resource of an operation's name: the name of its permissions, and its row in Stripe's form."""
_EXPANDED = {"payment_intent": ("payment_intent", "Payment Intents")}
"""An object that is expanded asks for its own permission; an invoice's payments are part of the invoice."""
_ALL = "all"

UNRESTRICTED = frozenset({_ALL})


def require(allowed: frozenset[str], operation: str, expand: Any, *, writes: bool, account_id: str) -> None:
    """Refuse a request whose key lacks a permission; write includes read.

    Raises:
        ApiError: 403, naming what is missing as Stripe does.
    """
    needed = [(*_RESOURCES[operation.partition(".")[0]], "write" if writes else "read")]
    steps = {step for path in expand or () for step in str(path).split(".")}
    needed += [(*names, "read") for step, names in _EXPANDED.items() if step in steps]
    for name, row, level in needed:
        if not {f"{name}_{level}", f"{name}_write"} & allowed:
            raise _refused(f"{name}_{level}", f"{row} {level.title()}", account_id)


def forbidden(account_id: str) -> ApiError:
    """403 for reading the account, which no key may that is restricted, unless it is told otherwise."""
    return _refused("accounts_kyc_basic_read", "Accounts KYC Basic Read", account_id)


def _refused(name: str, row: str, account_id: str) -> ApiError:
    return ApiError(
        f"Permission denied. The provided key 'rk_***' does not have the required permissions for this "
        f"endpoint on account '{account_id}'. Enabling \"{row}\" ('{name}') permissions on this key would "
        "allow this request to continue.",
        status=403,
        code="more_permissions_required",
    )
