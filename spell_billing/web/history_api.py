"""What the platform's backend reads: a user's invoices, usage, standing and grants, and all changes."""

from datetime import timedelta
from typing import Annotated, Literal

from fastapi import Body, Depends, Path, Query, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field

from spell_billing.core.month import Month
from spell_billing.ledger.browsing import bills_of
from spell_billing.ledger.feed import EventType, final_id, read_feed
from spell_billing.ledger.grants import grants_for
from spell_billing.web import api, cursors
from spell_billing.web.errors import ApiError
from spell_billing.web.history_answers import Grants, Invoices, grants_answer, invoice_of
from spell_billing.web.links import links_of
from spell_billing.web.standing import Standing, Standings
from spell_billing.web.user_usage import Usage, is_known, read_usage

_NEW_LINK = "Ask the platform for a new link."
_USER_LINK = HTTPBearer(
    scheme_name="userLink",
    description="The token of a user's link, which opens that user's data; `?token=` does as well.",
    auto_error=False,
)

UserId = Annotated[
    str,
    Path(
        description="The platform's id, with / written %2F.",
        json_schema_extra={"pattern": r"^[^\x00-\x1f\x7f]+$"},
    ),
]


class LinkRequest(BaseModel):
    """How long a link works."""

    model_config = ConfigDict(extra="forbid", strict=True)

    expires_in_hours: int = Field(default=24, ge=1, le=720, description="From now on.")


class MadeLink(BaseModel):
    """A link to a user's own page."""

    url: str = Field(description="Anyone who has it sees the page.")
    expires_at: api.Moment = Field(description="When it stops working.")


class BillEvent(BaseModel):
    """What happened to a bill; the same as the body of the event that is sent to `EVENT_URLS`."""

    id: str = Field(description="The same whenever it is told.")
    type: EventType
    created_at: api.Moment = Field(description="When it happened.")
    month: api.MonthText
    user_id: str | None = Field(description="The platform's user; null for month.billed.")
    generation: int | None = Field(description="Above 1 where an earlier invoice was voided.")
    stripe_invoice_id: str | None = Field(description="The invoice that it is about; null for none.")
    total_cents: int | None = Field(
        description="The invoice's total, or the credit given back, in minor units of the currency."
    )
    currency: str | None = Field(description="Of the amounts: three lower-case letters.")
    state: str | None = Field(description="The bill's from then on.")


class ThresholdEvent(BillEvent):
    """A user reached a threshold of the spend limit in the present month; it is about no bill."""

    type: Literal[EventType.THRESHOLD_REACHED] = Field(description="Always this.")
    percent: int = Field(description="The threshold, in percent of the limit.")
    so_far_cents: api.Cents = Field(description="What the month came to when it was told.")
    limit_cents: api.Cents = Field(description="The spend limit then.")


class Changes(BaseModel):
    """A page of events."""

    changes: list[ThresholdEvent | BillEvent] = Field(description="The oldest first.")
    next: str = Field(description="The `after` of the next request. Also given when there is nothing new.")
    more: bool = Field(description="Whether there is more to read right now.")


router = api.guarded_router(
    "/v1/users/{user_id:path}",
    {
        401: "The secret or the link's token is missing, wrong or over.",
        403: "The link is for another user, or the request comes from another site.",
        404: "Nothing is known of the user.",
    },
)
"""Each endpoint checks for itself who asks; a user id may hold slashes."""
changes_router = api.guarded_router("", {422: "A parameter is wrong, or the cursor is none of this ledger."})


async def may_read(
    context: api.Context,
    facts: api.Asker,
    user_id: UserId,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_USER_LINK)],
    token: Annotated[str | None, Query(include_in_schema=False)] = None,
) -> None:
    """Refuse a request that may not see the user's data.

    Secret and session see everybody's. A link's token, as `Authorization: Bearer ...` or as `?token=...`,
    opens one user's data alone.
    """
    if facts.admitted:
        return
    link = links_of(context).read(bearer.credentials.strip() if bearer else token)
    if link is None:
        raise ApiError(401, "wrong_token", "The link's token is not valid.", _NEW_LINK)
    if link.is_over:
        raise ApiError(401, "token_expired", "The link has expired.", _NEW_LINK)
    if link.user_id != user_id:
        raise ApiError(403, "other_user", "The link is for another user's data.", _NEW_LINK)
    facts.who = f"user link {user_id}"


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
    limit: Annotated[int, Field(ge=1, le=100, description="How many invoices."), api.DIGITS] = 20,
) -> Invoices:
    """Return a user's invoices, the newest first, every generation."""
    key = None if before is None else cursors.unpack_month(before)
    if key is None and before is not None:
        raise ApiError(422, "wrong_cursor", "before is no cursor.", "Send the `next` of an earlier answer.")
    found = context.ledger.read(bills_of, user_id, before=key, limit=limit + 1)
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


async def _standings(request: Request) -> Standings:
    standings: Standings = request.app.state.standings
    return standings


@router.get("/standing", operation_id="showStanding", dependencies=[Depends(may_read)])
def standing(user_id: UserId, standings: Annotated[Standings, Depends(_standings)]) -> Standing:
    """Return what the present month costs a user so far, against the user's spend limit."""
    found = standings.of(user_id)
    if found is None:
        raise _unknown(user_id)
    return found


@router.get("/grants", operation_id="listGrants", dependencies=[Depends(may_read)])
def grants(context: api.Context, user_id: UserId) -> Grants:
    """Return what a user has to pay bills with in advance, the oldest grant first."""
    found = context.ledger.read(grants_for, user_id)
    if not found and not is_known(context, user_id):
        raise _unknown(user_id)
    return grants_answer(user_id, found)


@router.post(
    "/link",
    operation_id="makeLink",
    responses=api.errors({status: api.REFUSALS[status] for status in (401, 403)}),
)
def link(
    context: api.Context,
    facts: api.Asker,
    base_url: api.BaseUrl,
    user_id: UserId,
    wanted: Annotated[LinkRequest, Body(default_factory=LinkRequest)],
) -> MadeLink:
    """Make a link to the user's own page. Anyone with it sees the page until it expires."""
    if not facts.admitted:
        raise ApiError(401, "no_secret", "A link is made with the admin secret only.", "Send X-Admin-Secret.")
    if not is_known(context, user_id):
        raise _unknown(user_id)
    until = (context.clock() + timedelta(hours=wanted.expires_in_hours)).replace(microsecond=0)
    facts.action = f"made a link for user {user_id} until {until.isoformat()}"
    return MadeLink(url=f"{base_url}/u/{links_of(context).make(user_id, until)}", expires_at=until)


@changes_router.get("/v1/changes", operation_id="listChanges")
def changes(
    context: api.Context,
    after: Annotated[
        int,
        Query(ge=0, le=2**63 - 1, description="The `next` of the answer before. Default: from the first."),
        api.DIGITS,
    ] = 0,
    limit: Annotated[int, Field(ge=1, le=1_000, description="How many events."), api.DIGITS] = 100,
) -> Changes:
    """Return what became of bills since a cursor: each event once, none is skipped."""
    with context.ledger.reading() as connection:
        until = final_id(connection)
        if after > until:
            raise ApiError(
                422,
                "wrong_cursor",
                "after is beyond the newest change: it is no cursor of this ledger as it is now.",
                "After a restore of the ledger, go on from an older cursor; ids tell what is known.",
            )
        found = read_feed(connection, after=after, until=until, limit=limit + 1)
    page = found[:limit]
    more = len(found) > limit
    return Changes(
        changes=[(ThresholdEvent if event.reached else BillEvent)(**event.as_fields()) for _, event in page],
        next=str(page[-1][0] if more else until),
        more=more,
    )


def _unknown(user_id: str) -> ApiError:
    return ApiError(
        404,
        "unknown_user",
        f"Nothing is known of user {user_id!r}: no invoice, no account, no usage.",
        "Check the user's id; in an address, / is written %2F.",
    )
