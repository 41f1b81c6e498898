"""Our own pages: templates with everything escaped, nothing from outside, and what their forms send."""

import base64
import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import parse_qs, quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from spell_billing.core.money import format_money
from spell_billing.core.outcomes import REMEDIES
from spell_billing.web import words

FORM_HEADERS: Mapping[str, str] = {"Referrer-Policy": "same-origin"}
"""Of pages with forms: with `no-referrer` a browser sends a form with the origin `null`; older ones send
nothing else to go by."""

_MOST_FIELDS = 6
_ENVIRONMENT = Environment(
    loader=PackageLoader("spell_billing.web", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {
    "money": partial(format_money, grouping=True),
    "minute": words.minute,
    "for_finance": words.for_finance,
    "of_month": words.of_month,
    "of_code": words.of_code,
    "remedy": REMEDIES.__getitem__,
    # Jinja's own urlencode leaves slashes, which would end the part of an address that a user id fills.
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
