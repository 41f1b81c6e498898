"""What our pages' plain HTML forms send, and the header that pages with such forms need."""

from collections.abc import Mapping
from urllib.parse import parse_qs

from starlette.requests import Request

HEADERS: Mapping[str, str] = {"Referrer-Policy": "same-origin"}
"""With `no-referrer` a browser sends a form with the origin `null`; older ones send nothing else to go by."""

_MOST_FIELDS = 6


async def read_fields(request: Request) -> dict[str, str]:
    """Return a form's fields, of a repeated one the first; none of them when there are too many."""
    body = (await request.body()).decode("utf-8", errors="replace")
    try:
        fields = parse_qs(body, keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        return {}
    return {name: values[0] for name, values in fields.items()}
