"""Pages for a browser: what the account holds, and one invoice as its customer would see it."""

from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import jinja2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from spell_billing.stripe_double.errors import ApiError

if TYPE_CHECKING:
    from spell_billing.stripe_double.double import StripeDouble

SHOWN = 50
"""Invoices on one page."""

_WHOLE = frozenset({"clp", "jpy", "krw", "pyg", "vnd", "xaf", "xof"})
"""Currencies without minor units."""

_environment = jinja2.Environment(
    loader=jinja2.PackageLoader("spell_billing.stripe_double"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
)


def pages_app(double: "StripeDouble") -> Starlette:
    """Return the pages of a double. They only read, and need no key: it listens on this machine."""

    def overview(request: Request) -> Response:
        wanted = request.query_params.get("q", "").strip()
        account = double.state
        with double.engine.lock:
            everything = list(account.invoices)
            failures = {each.invoice: each.decline_code or each.failure_code for each in account.charges}
            events = list(account.events)[-10:]
            refunds = sum(each.amount_cents for each in account.refunds)
        found = [
            each for each in everything if wanted in {"", each.id, each.customer, each.number, each.status}
        ]
        return _page(
            "account.html",
            account=account.id,
            customers=len(account.customers),
            statuses=sorted(Counter(each.status for each in everything).items()),
            total=sum(each.total_cents for each in everything if each.status not in {"void", "draft"}),
            paid=sum(each.amount_paid_cents for each in everything),
            refunds=refunds,
            wanted=wanted,
            found=len(found),
            invoices=found[: -SHOWN - 1 : -1],
            failures=failures,
            events=events[::-1],
        )

    def invoice(request: Request) -> Response:
        with double.engine.lock:
            try:
                found = double.state.invoices.get(request.path_params["id"])
            except ApiError:
                return _page("no_invoice.html", status=404)
            notes = [each for each in double.state.credit_notes if each.invoice == found.id]
            charges = [each for each in double.state.charges if each.invoice == found.id]
        return _page("invoice.html", invoice=found, notes=notes, charges=charges)

    return Starlette(
        routes=[
            Route("/", overview),
            Route("/i/{id}", invoice),
            Route("/i/{id}/pdf", invoice),
        ]
    )


def _page(name: str, *, status: int = 200, **what: object) -> Response:
    return HTMLResponse(_environment.get_template(name).render(what), status_code=status)


def _money(cents: int, currency: str = "usd") -> str:
    places = 0 if currency in _WHOLE else 2
    amount = f"{Decimal(cents).scaleb(-places):,.{places}f}"
    return f"${amount}".replace("$-", "-$") if currency == "usd" else f"{amount} {currency.upper()}"


def _moment(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%-d %B %Y, %H:%M} UTC"


_environment.filters |= {"money": _money, "moment": _moment}
