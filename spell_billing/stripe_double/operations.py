"""The operations that are served: name, method, path, parameters and handler of each."""

from collections.abc import Callable
from dataclasses import dataclass

from spell_billing.stripe_double import invoices, money_back, other_endpoints
from spell_billing.stripe_double.account import Account, Call
from spell_billing.stripe_double.errors import ApiError
from spell_billing.stripe_double.schema import Parameters, parameters

Handler = Callable[[Account, Call], object]


@dataclass(frozen=True, slots=True)
class Operation:
    """One endpoint. Its name addresses faults and counts: `invoices.finalize`."""

    name: str
    writes: bool
    handler: Handler
    parameters: Parameters


_ROUTES: dict[str, tuple[str, Handler]] = {
    "GET /v1/account": ("account.retrieve", other_endpoints.retrieve_account),
    "POST /v1/billing_portal/sessions": (
        "billing_portal.sessions.create",
        other_endpoints.create_portal_session,
    ),
    "GET /v1/charges": ("charges.list", other_endpoints.list_charges),
    "POST /v1/credit_notes": ("credit_notes.create", money_back.create_credit_note),
    "GET /v1/credit_notes": ("credit_notes.list", money_back.list_credit_notes),
    "POST /v1/customers": ("customers.create", other_endpoints.create_customer),
    "GET /v1/customers/{customer}": ("customers.retrieve", other_endpoints.retrieve_customer),
    "GET /v1/disputes": ("disputes.list", other_endpoints.list_disputes),
    "GET /v1/events": ("events.list", other_endpoints.list_events),
    "GET /v1/events/{id}": ("events.retrieve", other_endpoints.retrieve_event),
    "POST /v1/invoiceitems": ("invoiceitems.create", other_endpoints.create_item),
    "GET /v1/invoiceitems": ("invoiceitems.list", other_endpoints.list_items),
    "POST /v1/invoices/{invoice}/add_lines": ("invoices.add_lines", invoices.add_lines),
    "POST /v1/invoices": ("invoices.create", invoices.create_invoice),
    "DELETE /v1/invoices/{invoice}": ("invoices.delete", invoices.delete_invoice),
    "POST /v1/invoices/{invoice}/finalize": ("invoices.finalize", invoices.finalize_invoice),
    "GET /v1/invoices/{invoice}/lines": ("invoices.lines", invoices.list_lines),
    "GET /v1/invoices": ("invoices.list", invoices.list_invoices),
    "POST /v1/invoices/{invoice}/mark_uncollectible": (
        "invoices.mark_uncollectible",
        invoices.mark_uncollectible,
    ),
    "POST /v1/invoices/{invoice}/pay": ("invoices.pay", invoices.pay_invoice),
    "GET /v1/invoices/{invoice}": ("invoices.retrieve", invoices.retrieve_invoice),
    "POST /v1/invoices/{invoice}": ("invoices.update", invoices.update_invoice),
    "POST /v1/invoices/{invoice}/void": ("invoices.void", invoices.void_invoice),
    "POST /v1/refunds": ("refunds.create", other_endpoints.create_refund),
}


def _key(method: str, path: str) -> tuple[str, ...]:
    """Return what tells routes apart: the method, and the path without the id in its fourth place."""
    steps = path.split("/")
    return (method, *steps[:3], *("id" for _ in steps[3:4]), *steps[4:])


_BY_KEY = {
    _key(*route.split(" ")): Operation(name, not route.startswith("GET"), handler, parameters()[route])
    for route, (name, handler) in _ROUTES.items()
}
OPERATIONS = frozenset(each.name for each in _BY_KEY.values())


def find_operation(method: str, path: str) -> tuple[Operation, str]:
    """Return the operation that a request means, and the id in its path (empty when there is none).

    Raises:
        ApiError: 404 for a URL that Stripe, or the double, does not know.
    """
    operation = _BY_KEY.get(_key(method, path))
    if operation is None:
        raise ApiError(f"Unrecognized request URL ({method}: {path}).", status=404)
    return operation, "".join(path.split("/")[3:4])
