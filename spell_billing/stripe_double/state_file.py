"""Keeps the account's objects in a JSON file between two runs of the double."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spell_billing.stripe_double import objects
from spell_billing.stripe_double.account import Account
from spell_billing.stripe_double.errors import DoubleError

_TYPES: dict[str, Callable[..., object]] = {
    each.__name__: each
    for each in (
        objects.Customer,
        objects.Line,
        objects.Invoice,
        objects.InvoiceItem,
        objects.Charge,
        objects.Refund,
        objects.Dispute,
        objects.CreditNote,
        objects.Event,
    )
}
_TAG = "$type"


def save_account(path: Path, account: Account) -> None:
    """Write the account's objects; a reader sees the old file or the whole new one."""
    kinds = (
        account.customers,
        account.items,
        account.invoices,
        account.credit_notes,
        account.charges,
        account.refunds,
        account.disputes,
        account.events,
    )
    document = {
        "salt": account.salt,
        "last_serial": account.last_serial,
        "objects": [each for kind in kinds for each in kind],
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
            _put(account, each)
    except (KeyError, TypeError, ValueError) as error:
        raise DoubleError(f"{path} is not a state file of the Stripe double: delete it.") from error


def _encode(value: object) -> dict[str, Any]:
    if type(value).__name__ not in _TYPES or not dataclasses.is_dataclass(value):
        raise TypeError(f"{type(value).__name__} has no place in a state file")
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {_TAG: type(value).__name__, **fields}


def _decode(value: dict[str, Any]) -> Any:
    if _TAG not in value:
        return value
    make = _TYPES[value.pop(_TAG)]
    return make(**{name: tuple(part) if isinstance(part, list) else part for name, part in value.items()})


def _put(account: Account, value: object) -> None:
    match value:
        case objects.Customer():
            account.customers.add(value)
        case objects.Invoice():
            account.put_invoice(value)
        case objects.InvoiceItem():
            account.items.add(value, owner=value.customer)
        case objects.CreditNote():
            account.credit_notes.add(value, owner=value.customer)
        case objects.Charge():
            account.charges.add(value, owner=value.customer)
        case objects.Refund():
            account.refunds.add(value)
        case objects.Dispute():
            account.disputes.add(value)
        case objects.Event():
            account.events.add(value)
        case _:
            raise TypeError(f"{type(value).__name__} has no place in a state file")
