"""Renders our own pages: templates with everything escaped, one stylesheet inside, nothing from outside."""

import base64
import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse

from spell_billing.core.money import format_money
from spell_billing.web import words

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
    # Jinja's own urlencode leaves slashes, which would end the part of an address that a user id fills.
    "segment": partial(quote, safe=""),
}


def page(
    template: str, status_code: int = 200, *, headers: Mapping[str, str] | None = None, **values: Any
) -> HTMLResponse:
    """Render a template that extends `base.html`.

    The stylesheet stands in the page, and the policy of the answer allows that one by its hash and nothing
    else: no script, no font, no picture of any address.

    Args:
        template: Its name in `templates`.
        status_code: Of HTTP.
        headers: Further headers.
        values: What the template uses; each is escaped.
    """
    text = _ENVIRONMENT.get_template(template).render(stylesheet=_STYLESHEET, **values)
    return HTMLResponse(text, status_code, {"Content-Security-Policy": _POLICY, **(headers or {})})


def _source(name: str) -> str:
    loader = _ENVIRONMENT.loader
    assert loader is not None  # noqa: S101 - given above; the type alone does not say so
    return loader.get_source(_ENVIRONMENT, name)[0]


_STYLESHEET = Markup(_source("style.css"))  # noqa: S704 - a file of ours; in <style> nothing may be escaped
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLESHEET.encode()).digest()).decode()
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
