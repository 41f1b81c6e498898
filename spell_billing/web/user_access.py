"""Who may see a user's data: anyone admitted by secret or session, and the user by a signed link."""

from starlette.requests import Request
from starlette.responses import Response

from spell_billing.web.answers import json_error
from spell_billing.web.facts import facts_of
from spell_billing.web.links import Links

_BEARER = "bearer "
_REMEDY = "Ask the platform for a new link."


def refusal(request: Request, user_id: str, links: Links) -> Response | None:
    """Return None when the request may see the user's data, else the answer to it.

    A link's token comes as `Authorization: Bearer ...` or as `?token=...`, and opens one user's data alone.
    """
    facts = facts_of(request.scope)
    if facts.admitted:
        return None
    link = links.read(_token(request))
    if link is None:
        return json_error(401, "wrong_token", "The link's token is not valid.", _REMEDY)
    if link.is_over:
        return json_error(401, "token_expired", "The link has expired.", _REMEDY)
    if link.user_id != user_id:
        return json_error(403, "other_user", "The link is for another user's data.", _REMEDY)
    facts.who = f"user link {user_id}"
    return None


def _token(request: Request) -> str | None:
    header = request.headers.get("authorization", "")
    if header.lower().startswith(_BEARER):
        return header[len(_BEARER) :].strip()
    return request.query_params.get("token")
