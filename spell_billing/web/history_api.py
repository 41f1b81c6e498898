"""The history API: a user's invoices and usage for the platform's backend, and links for users themselves."""

from datetime import timedelta
from typing import Annotated

from fastapi import Body, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from spell_billing.core.month import Month
from spell_billing.ledger.browsing import bills_of
from spell_billing.web import api, cursors
from spell_billing.web.errors import ApiError
from spell_billing.web.history_answers import Invoices, invoice_of
from spell_billing.web.links import links_of
from spell_billing.web.user_access import UserId, may_read, needs_secret
from spell_billing.web.user_usage import Usage, is_known, read_usage

MOST_INVOICES = 100
USUAL_INVOICES = 20
MOST_HOURS = 720
USUAL_HOURS = 24


class LinkRequest(BaseModel):
    """How long a link works."""

    model_config = ConfigDict(extra="forbid", strict=True)

    expires_in_hours: int = Field(default=USUAL_HOURS, ge=1, le=MOST_HOURS)


class MadeLink(BaseModel):
    """A link to a user's own page."""

    url: str
    expires_at: api.Moment


router = api.guarded_router(
    "/v1/users/{user_id:path}",
    {
        401: "The secret or the link's token is missing, wrong or over.",
        403: "The link is for another user, or the request comes from another site.",
        404: "Nothing is known of the user.",
    },
)
"""Each endpoint checks for itself who asks; a user id may hold slashes."""


@router.get(
    "/invoices",
    operation_id="listInvoices",
    response_model_exclude_unset=True,
    dependencies=[Depends(may_read)],
)
def invoices(
    context: api.Context,
    facts: api.Asker,
    user_id: UserId,
    before: Annotated[str | None, Query(description="The `next` of the page before.")] = None,
    limit: Annotated[int, Field(ge=1, le=MOST_INVOICES), api.DIGITS] = USUAL_INVOICES,
) -> Invoices:
    """Return a user's invoices, the newest first, every generation."""
    key = None if before is None else cursors.unpack_month(before)
    if key is None and before is not None:
        raise ApiError(422, "wrong_cursor", "before is no cursor.", "Send the `next` of an earlier answer.")
    with context.ledger.reading() as connection:
        found = bills_of(connection, user_id, before=key, limit=limit + 1)
    if not found and key is None and not is_known(context, user_id):
        raise _unknown(user_id)
    last = found[limit - 1].bill if len(found) > limit else None
    return Invoices(
        user_id=user_id,
        invoices=[invoice_of(each, internal=facts.admitted) for each in found[:limit]],
        next=cursors.pack((last.month, last.generation)) if last else None,
    )


@router.get("/usage", operation_id="showUsage", dependencies=[Depends(may_read)])
def usage(
    context: api.Context,
    user_id: UserId,
    month: Annotated[
        str | None,
        Query(json_schema_extra=api.MONTH_SCHEMA, description="Default: the present month (UTC)."),
    ] = None,
) -> Usage:
    """Return a user's calls and cost of a month, by day; for the present month so far."""
    present = Month.containing(context.clock())
    asked = present if month is None else Month.parse(month)
    if asked > present:
        raise ApiError(
            422, "month_in_future", f"{asked} has not begun yet.", f"Ask for {present} or an earlier month."
        )
    found = read_usage(context, user_id, asked)
    if found is None:
        raise _unknown(user_id)
    return found


@router.post("/link", operation_id="makeLink", dependencies=[Depends(needs_secret)])
def link(
    context: api.Context,
    facts: api.Asker,
    base_url: api.BaseUrl,
    user_id: UserId,
    wanted: Annotated[LinkRequest, Body(default_factory=LinkRequest)],
) -> MadeLink:
    """Make a link to the user's own page. Anyone with it sees the page until it expires."""
    if not is_known(context, user_id):
        raise _unknown(user_id)
    until = (context.clock() + timedelta(hours=wanted.expires_in_hours)).replace(microsecond=0)
    facts.action = f"made a link for user {user_id} until {until.isoformat()}"
    return MadeLink(url=f"{base_url}/u/{links_of(context).make(user_id, until)}", expires_at=until)


def _unknown(user_id: str) -> ApiError:
    return ApiError(
        404,
        "unknown_user",
        f"Nothing is known of user {user_id!r}: no invoice, no account, no usage.",
        "Check the user's id; in an address, / is written %2F.",
    )
