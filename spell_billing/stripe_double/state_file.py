"""Keeps the account's objects in a JSON file between two runs of the double."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from spell_billing.stripe_double import objects
from spell_billing.stripe_double.account import Account
from spell_billing.stripe_double.collection import Collection
from spell_billing.stripe_double.errors import DoubleError

_TAG = "$type"


def save_account(path: Path, account: Account) -> None:
    """Write the account's objects; a reader sees the old file or the whole new one."""
    document = {
        "salt": account.salt,
        "last_serial": account.last_serial,
        "objects": [each for kind in _collections(account).values() for each in kind],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(document, default=_encode), encoding="utf-8")
    temporary.replace(path)


def load_account(path: Path, account: Account) -> None:
    """Read the objects of an earlier run into an empty account.

    Raises:
        DoubleError: when the file is not one that `save_account` wrote.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"), object_hook=_decode)
        account.salt, account.last_serial = document["salt"], document["last_serial"]
        for each in document["objects"]:
            _collections(account)[type(each).__name__].put(each)
        for invoice in account.invoices:
            account.put_invoice(invoice)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DoubleError(f"{path} is not a state file of the Stripe double: delete it.") from error


def _collections(account: Account) -> dict[str, Collection[Any]]:
    return {
        "Customer": account.customers,
        "InvoiceItem": account.items,
        "Invoice": account.invoices,
        "CreditNote": account.credit_notes,
        "Charge": account.charges,
        "Refund": account.refunds,
        "Dispute": account.disputes,
        "Event": account.events,
    }


def _encode(value: Any) -> dict[str, Any]:
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {_TAG: type(value).__name__, **fields}


def _decode(value: dict[str, Any]) -> Any:
    if _TAG not in value:
        return value
    make = getattr(objects, value.pop(_TAG))
    return make(**{name: tuple(part) if isinstance(part, list) else part for name, part in value.items()})
