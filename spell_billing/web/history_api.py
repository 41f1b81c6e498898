"""The history API: a user's invoices and usage for the platform's backend, and links for users themselves."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Query, Security
from pydantic import BaseModel, ConfigDict, Field

from spell_billing.core.month import Month
from spell_billing.ledger.browsing import BillKey, bills_of
from spell_billing.web import cursors
from spell_billing.web.api import (
    ADMIN_SECRET,
    DIGITS,
    MONTH_SCHEMA,
    REFUSALS,
    TOO_LARGE,
    Asker,
    BaseUrl,
    Context,
    JsonRoute,
    Moment,
    errors,
)
from spell_billing.web.errors import ApiError
from spell_billing.web.history_answers import Invoices, Usage, invoice_of, usage_of
from spell_billing.web.links import links_of
from spell_billing.web.user_access import UserId, may_read, needs_secret
from spell_billing.web.user_usage import is_known, read_usage

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
    expires_at: Moment


async def _before(
    before: Annotated[str | None, Query(description="The `next` of the page before.")] = None,
) -> BillKey | None:
    key = None if before is None else cursors.unpack_month(before)
    if before is not None and key is None:
        raise ApiError(
            422, "wrong_cursor", "before is not what is expected.", "Send the `next` of an earlier answer."
        )
    return key


async def _month(
    context: Context,
    month: Annotated[
        str | None,
        Query(json_schema_extra=MONTH_SCHEMA, description="Default: the present month (UTC)."),
    ] = None,
) -> Month:
    present = Month.containing(context.clock())
    asked = present if month is None else Month.parse(month)
    if asked > present:
        raise ApiError(
            422, "month_in_future", f"{asked} has not begun yet.", f"Ask for {present} or an earlier month."
        )
    return asked


router = APIRouter(
    prefix="/v1/users/{user_id:path}",
    route_class=JsonRoute,
    dependencies=[Security(ADMIN_SECRET)],
    responses={
        **REFUSALS,
        **errors(
            {
                401: "The secret or the link's token is missing, wrong or over.",
                403: "The link is for another user, or the request comes from another site.",
                404: "Nothing is known of the user.",
            }
        ),
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
    context: Context,
    facts: Asker,
    user_id: UserId,
    before: Annotated[BillKey | None, Depends(_before)],
    limit: Annotated[int, Field(ge=1, le=MOST_INVOICES), DIGITS] = USUAL_INVOICES,
) -> Invoices:
    """Return a user's invoices, the newest first, every generation."""
    with context.ledger.reading() as connection:
        found = bills_of(connection, user_id, before=before, limit=limit + 1)
    if not found and before is None and not is_known(context, user_id):
        raise _unknown(user_id)
    last = found[limit - 1].bill if len(found) > limit else None
    return Invoices(
        user_id=user_id,
        invoices=[invoice_of(each, internal=facts.admitted) for each in found[:limit]],
        next=cursors.pack((last.month, last.generation)) if last else None,
    )


@router.get("/usage", operation_id="showUsage", dependencies=[Depends(may_read)])
def usage(context: Context, user_id: UserId, month: Annotated[Month, Depends(_month)]) -> Usage:
    """Return a user's calls and cost of a month, by day; for the present month so far."""
    found = read_usage(context, user_id, month)
    if found is None:
        raise _unknown(user_id)
    return usage_of(found, user_id)


@router.post("/link", operation_id="makeLink", dependencies=[Depends(needs_secret)], responses=TOO_LARGE)
def link(
    context: Context,
    facts: Asker,
    base_url: BaseUrl,
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
