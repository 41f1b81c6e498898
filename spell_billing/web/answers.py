"""JSON answers: exact numbers, and errors that name what is wrong and the remedy."""

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response

from spell_billing.core.money import exact_number


def json_answer(
    content: object, status_code: int = 200, *, headers: Mapping[str, str] | None = None
) -> Response:
    """Return content as JSON; a decimal appears with all its digits, as a number."""
    body = orjson.dumps(content, default=exact_number)
    return Response(body, status_code, headers=headers, media_type="application/json")


def json_error(
    status_code: int,
    code: str,
    message: str,
    remedy: str,
    *,
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> Response:
    """Return an error: `{"error": {"code", "message", "remedy"}}`, and what else the caller adds beside it.

    Args:
        status_code: Of HTTP.
        code: For programs, as `month_not_closed`; it never changes.
        message: What is wrong, in plain words.
        remedy: What to do about it.
        headers: Of the answer.
        more: Further members of the answer.
    """
    error = {"error": {"code": code, "message": message, "remedy": remedy}}
    return json_answer({**error, **more}, status_code, headers=headers)
