"""Our own pages: templates with everything escaped, their words for states, and what their forms send."""

import base64
import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import parse_qs, quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse

from spell_billing.core.money import format_money
from spell_billing.core.month import Month
from spell_billing.core.outcomes import REMEDIES, Reason, State
from spell_billing.core.shown import one_line
from spell_billing.ledger.browsing import UserBill
from spell_billing.ledger.month_state import MonthState

FORM_HEADERS: Mapping[str, str] = {"Referrer-Policy": "same-origin"}
"""Of pages with forms: with `no-referrer` a browser sends a form with the origin `null`; older ones send
nothing else to go by."""

_MOST_FIELDS = 8

_BEING_PREPARED = "Being prepared"
_LOOKED_INTO = "Not sent yet: we are looking into it"

_FOR_USERS: Mapping[State, str] = {
    State.PLANNED: _BEING_PREPARED,
    State.DRAFTED: _BEING_PREPARED,
    State.FINALIZED: "Sent, to be paid",
    State.PAID: "Paid",
    State.PAYMENT_FAILED: "Payment failed",
    State.UNCOLLECTIBLE: "Not paid, and no longer collected",
    State.VOID: "Cancelled, nothing to pay",
    State.SKIPPED: "Nothing to pay",
    State.HELD: _LOOKED_INTO,
    State.FAILED: _LOOKED_INTO,
    State.PARKED: _LOOKED_INTO,
    State.SETTLED: "Settled with you directly",
}
"""What failed on our side is ours to fix: a user is told that it is looked into, not what it is."""

FOR_FINANCE: Mapping[State, str] = {
    State.PLANNED: "Planned",
    State.DRAFTED: "Draft at Stripe",
    State.FINALIZED: "Sent, not paid yet",
    State.PAID: "Paid",
    State.PAYMENT_FAILED: "Payment failed",
    State.UNCOLLECTIBLE: "Uncollectible",
    State.VOID: "Void",
    State.SKIPPED: "Skipped, nothing due",
    State.HELD: "Held",
    State.FAILED: "Failed, no invoice",
    State.PARKED: "Parked, somebody must look",
    State.SETTLED: "Settled by hand",
}
"""A bill's state as finance reads it."""

_MONTHS: Mapping[MonthState, str] = {
    "open": "Not over yet",
    "unbilled": "Not billed yet",
    "in_review": "In review, waiting for approval",
    "partial": "Billed in part",
    "billed": "Billed",
}


def for_user(item: UserBill) -> str:
    """Tell a user in a sentence where their bill stands."""
    bill, payment = item.bill, item.payment
    if bill.reason is Reason.CREDIT_CARRIED:
        return "Nothing to pay: the credit goes to a later invoice"
    if bill.reason is Reason.SMALL_CARRIED:
        return "Nothing to pay now: the small amount goes to the next invoice"
    if bill.reason is Reason.SMALL_FORGIVEN:
        return "Nothing to pay: the amount is too small to be charged"
    text = _FOR_USERS[bill.state]
    if bill.state is State.PAID and item.refunded_cents:
        return f"{text}, {format_money(item.refunded_cents, bill.currency, grouping=True)} refunded"
    if bill.state is State.PAYMENT_FAILED and payment is not None:
        again = payment.next_attempt_at
        return f"{text}, tried again on {day(again)}" if again else f"{text}, please pay the invoice"
    return text


def of_code(code: str) -> str:
    """Write a code for people, as that of a reason or of a run's result: `no billing account`."""
    return code.replace("_", " ").replace("stripe", "Stripe")


def day(moment: datetime) -> str:
    """Write the day of an aware datetime in UTC: `3 November 2026`."""
    utc = moment.astimezone(UTC)
    return f"{utc.day} {Month.containing(utc).label}"


def minute(moment: datetime) -> str:
    """Write an aware datetime in UTC to the minute: `3 November 2026, 14:05 UTC`."""
    return f"{day(moment)}, {moment.astimezone(UTC):%H:%M} UTC"


def prose(text: str) -> Markup:
    """Write words of ours with their commands as code: what stands between backticks."""
    # As a plain text: Markup would escape the tags that are put into it.
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - it is escaped


def count(number: int, thing: str) -> str:
    """Write how many there are of a thing: `1 call`, `1,234 calls`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


_ENVIRONMENT = Environment(
    loader=PackageLoader("spell_billing.web", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {
    "money": partial(format_money, grouping=True),
    "minute": minute,
    "moment": lambda text: minute(datetime.fromisoformat(text)),
    "for_finance": FOR_FINANCE.__getitem__,
    "of_month": _MONTHS.__getitem__,
    "of_code": of_code,
    "remedy": REMEDIES.__getitem__,
    "prose": prose,
    "count": count,
    # Jinja's own urlencode leaves slashes, which would end the part of an address that a user id fills.
    "one_line": one_line,
    "segment": partial(quote, safe=""),
}


def page(
    template: str, status_code: int = 200, *, headers: Mapping[str, str] | None = None, **values: Any
) -> HTMLResponse:
    """Render a template that extends `base.html`; each of the values that it uses is escaped.

    The stylesheet stands in the page, and the policy of the answer allows that one by its hash and nothing
    else: no script, no font, no picture of any address.
    """
    text = _ENVIRONMENT.get_template(template).render(**values)
    return HTMLResponse(text, status_code, {"Content-Security-Policy": _POLICY, **(headers or {})})


async def read_fields(request: Request) -> dict[str, str]:
    """Return a form's fields, of a repeated one the first; none of them when there are too many."""
    body = (await request.body()).decode("utf-8", errors="replace")
    try:
        fields = parse_qs(body, keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        return {}
    return {name: values[0] for name, values in fields.items()}


_STYLESHEET = _ENVIRONMENT.get_template("style.css").render()
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLESHEET.encode()).digest()).decode()
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
