"""The operations that are served: name, method, path, parameters and handler of each."""

from collections.abc import Callable
from dataclasses import dataclass

from spell_billing.stripe_double import credit_notes, invoices, other_endpoints
from spell_billing.stripe_double.account import Account
from spell_billing.stripe_double.calls import Call
from spell_billing.stripe_double.errors import ApiError
from spell_billing.stripe_double.schema import Parameters, parameters

Handler = Callable[[Account, Call], object]


@dataclass(frozen=True, slots=True)
class Operation:
    """One endpoint. Its name addresses faults and counts: `invoices.finalize`."""

    name: str
    method: str
    path: str
    handler: Handler
    parameters: Parameters

    @property
    def writes(self) -> bool:
        """Whether the operation changes anything."""
        return self.method != "GET"


_ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("account.retrieve", "GET /v1/account", other_endpoints.retrieve_account),
    (
        "billing_portal.sessions.create",
        "POST /v1/billing_portal/sessions",
        other_endpoints.create_portal_session,
    ),
    ("charges.list", "GET /v1/charges", other_endpoints.list_charges),
    ("credit_notes.create", "POST /v1/credit_notes", credit_notes.create_credit_note),
    ("credit_notes.list", "GET /v1/credit_notes", credit_notes.list_credit_notes),
    ("customers.create", "POST /v1/customers", other_endpoints.create_customer),
    ("customers.retrieve", "GET /v1/customers/{customer}", other_endpoints.retrieve_customer),
    ("events.list", "GET /v1/events", other_endpoints.list_events),
    ("events.retrieve", "GET /v1/events/{id}", other_endpoints.retrieve_event),
    ("invoiceitems.create", "POST /v1/invoiceitems", other_endpoints.create_item),
    ("invoiceitems.list", "GET /v1/invoiceitems", other_endpoints.list_items),
    ("invoices.add_lines", "POST /v1/invoices/{invoice}/add_lines", invoices.add_lines),
    ("invoices.create", "POST /v1/invoices", invoices.create_invoice),
    ("invoices.delete", "DELETE /v1/invoices/{invoice}", invoices.delete_invoice),
    ("invoices.finalize", "POST /v1/invoices/{invoice}/finalize", invoices.finalize_invoice),
    ("invoices.lines", "GET /v1/invoices/{invoice}/lines", invoices.list_lines),
    ("invoices.list", "GET /v1/invoices", invoices.list_invoices),
    (
        "invoices.mark_uncollectible",
        "POST /v1/invoices/{invoice}/mark_uncollectible",
        invoices.mark_uncollectible,
    ),
    ("invoices.pay", "POST /v1/invoices/{invoice}/pay", invoices.pay_invoice),
    ("invoices.retrieve", "GET /v1/invoices/{invoice}", invoices.retrieve_invoice),
    ("invoices.update", "POST /v1/invoices/{invoice}", invoices.update_invoice),
    ("invoices.void", "POST /v1/invoices/{invoice}/void", invoices.void_invoice),
    ("refunds.create", "POST /v1/refunds", other_endpoints.create_refund),
)


def _operation(name: str, route: str, handler: Handler) -> Operation:
    method, path = route.split(" ")
    return Operation(name, method, path, handler, parameters()[route])


OPERATIONS = {name: _operation(name, route, handler) for name, route, handler in _ROUTES}

_RESOURCE, _ID, _ACTION = 2, 3, 4


def _key(method: str, steps: list[str]) -> tuple[str, str, bool, str]:
    action = steps[_ACTION] if len(steps) > _ACTION else ""
    return method, steps[_RESOURCE], len(steps) > _ID, action


_BY_KEY = {_key(each.method, each.path.split("/")): each for each in OPERATIONS.values()}


def find_operation(method: str, path: str) -> tuple[Operation, str]:
    """Return the operation that a request means, and the id in its path (empty when there is none).

    Raises:
        ApiError: 404 for a URL that Stripe, or the double, does not know.
    """
    steps = path.split("/")
    operation = _BY_KEY.get(_key(method, steps)) if _RESOURCE < len(steps) <= _ACTION + 1 else None
    if operation is None:
        raise ApiError(404, f"Unrecognized request URL ({method}: {path}).")
    return operation, steps[_ID] if len(steps) > _ID else ""
