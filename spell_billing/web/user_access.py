"""Who may see a user's data: anyone admitted by secret or session, and the user by a signed link."""

from typing import Annotated

from fastapi import Path, Query, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from spell_billing.web import api
from spell_billing.web.errors import ApiError
from spell_billing.web.links import links_of

UserId = Annotated[
    str,
    Path(
        description="The platform's id, with / written %2F.",
        json_schema_extra={"pattern": r"^[^\x00-\x1f\x7f]+$"},
    ),
]
_REMEDY = "Ask the platform for a new link."
_USER_LINK = HTTPBearer(
    scheme_name="userLink",
    description="The token of a user's link, which opens that user's data; `?token=` does as well.",
    auto_error=False,
)


async def may_read(
    context: api.Context,
    facts: api.Asker,
    user_id: UserId,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_USER_LINK)],
    token: Annotated[str | None, Query(include_in_schema=False)] = None,
) -> None:
    """Refuse a request that may not see the user's data.

    A link's token comes as `Authorization: Bearer ...` or as `?token=...`, and opens one user's data alone.
    """
    if facts.admitted:
        return
    link = links_of(context).read(bearer.credentials.strip() if bearer else token)
    if link is None:
        raise ApiError(401, "wrong_token", "The link's token is not valid.", _REMEDY)
    if link.is_over:
        raise ApiError(401, "token_expired", "The link has expired.", _REMEDY)
    if link.user_id != user_id:
        raise ApiError(403, "other_user", "The link is for another user's data.", _REMEDY)
    facts.who = f"user link {user_id}"


async def needs_secret(facts: api.Asker) -> None:
    """Refuse a request that carries neither the secret nor a session."""
    if not facts.admitted:
        raise ApiError(401, "no_secret", "A link is made with the admin secret only.", "Send X-Admin-Secret.")
