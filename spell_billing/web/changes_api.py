"""`GET /v1/changes`: what became of bills, in order, for a platform that catches up or takes no webhooks."""

from typing import Annotated

from fastapi import Query
from pydantic import BaseModel, Field

from spell_billing.ledger.feed import EventType, final_id, read_feed
from spell_billing.web import api
from spell_billing.web.errors import ApiError

PATH = "/v1/changes"
MOST_CHANGES = 1_000
USUAL_CHANGES = 100
_LARGEST_ID = 2**63 - 1


class BillEvent(BaseModel):
    """What happened to a bill; the same as the body of the event that is sent to `EVENT_URLS`."""

    id: str = Field(description="The same whenever it is told.")
    type: EventType
    created_at: api.Moment
    month: api.MonthText
    user_id: str | None = Field(description="The platform's user; null for month.billed.")
    generation: int | None = Field(description="Above 1 where an earlier invoice was voided.")
    stripe_invoice_id: str | None
    total_cents: int | None = Field(
        description="The invoice's total, or the credit given back, in minor units of the currency."
    )
    currency: str | None
    state: str | None = Field(description="The bill's from then on.")


class Changes(BaseModel):
    """A page of events, the oldest first."""

    changes: list[BillEvent]
    next: str = Field(description="The `after` of the next request. Also given when there is nothing new.")
    more: bool = Field(description="Whether there is more to read right now.")


router = api.guarded_router("", {422: "A parameter is wrong, or the cursor is none of this ledger."})


@router.get(PATH, operation_id="listChanges")
def changes(
    context: api.Context,
    after: Annotated[
        int,
        Query(ge=0, le=_LARGEST_ID, description="The `next` of the answer before. Default: from the first."),
        api.DIGITS,
    ] = 0,
    limit: Annotated[int, Field(ge=1, le=MOST_CHANGES), api.DIGITS] = USUAL_CHANGES,
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
        changes=[BillEvent(**event.as_fields()) for _, event in page],
        next=str(page[-1][0] if more else until),
        more=more,
    )
