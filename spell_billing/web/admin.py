"""`/admin/billing`: start a month's billing, and say where months stand."""

from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import Body, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from spell_billing.core.errors import MonthLockedError
from spell_billing.core.month import Month, require_billable
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.reviews import read_decisions, read_review
from spell_billing.ledger.rows import Actor
from spell_billing.reporting.status import month_status
from spell_billing.web import api
from spell_billing.web.context import WebContext
from spell_billing.web.errors import ApiError, json_answer
from spell_billing.web.launching import DagsterRuns, Run
from spell_billing.web.month_answers import MonthAnswer, Months, Reviewed
from spell_billing.web.month_figures import all_months

MONTHS_PATH = "/admin/billing/months"
PROCESS_PATH = "/admin/billing/process-monthly"
_LaunchStatus = Literal["started", "already_billed", "already_running"]


class BillingRequest(BaseModel):
    """What to bill; nothing is the last closed month."""

    model_config = ConfigDict(extra="forbid", strict=True)

    month: api.MonthText | None = Field(default=None, description="Default: the last closed month.")
    verify: bool = Field(default=False, description="Ask Stripe what stands even when every user is done.")


class LaunchLinks(BaseModel):
    """Where to look on."""

    status: str = Field(description="Where the month stands: an address of this server.")
    run: str = Field(default="", description="The run's page in Dagster; left out where there is none.")


class Launch(BaseModel):
    """What became of the request."""

    status: _LaunchStatus = Field(description="Whether a run was started, or why none was.")
    month: api.MonthText
    run_id: str | None = Field(description="Of the run that was started, or is under way.")
    links: LaunchLinks


class AlreadyRunning(api.ErrorAnswer, Launch):
    """A run of the month is under way."""


async def _runs(request: Request) -> DagsterRuns:
    runs: DagsterRuns = request.app.state.runs
    return runs


Runs = Annotated[DagsterRuns, Depends(_runs)]
router = api.guarded_router()
"""The admin endpoints; the gate stands before them."""


@router.post(
    PROCESS_PATH,
    operation_id="processMonthly",
    response_model_exclude_unset=True,
    response_description="The month is billed already; nothing was started.",
    responses={
        202: {"model": Launch, "description": "A run was started."},
        409: {"model": AlreadyRunning, "description": "A run of the month is under way."},
    },
)
def process(
    *,
    context: api.Context,
    runs: Runs,
    facts: api.Asker,
    base_url: api.BaseUrl,
    response: Response,
    wanted: Annotated[BillingRequest, Body(default_factory=BillingRequest)],
) -> Launch:
    """Start the billing of a closed month, unless it runs already or is done."""
    now = context.clock()
    month = Month.containing(now).previous() if wanted.month is None else Month.parse(wanted.month)
    settings = context.settings
    require_billable(month, first=settings.first_month, now=now, grace=settings.billing_grace)
    facts.action = f"asked to bill {month}"
    ledger = context.ledger
    try:
        # In this process one at a time; between processes the ledger's lock does the same.
        with runs.launching, ledger.exclusive("launching", wait_seconds=15.0):
            run = runs.under_way(month, base_url)
            if run is not None or ledger.is_held(month):
                raise _under_way(month, run, base_url)
            if not wanted.verify and month_status(ledger, month, context.clock()).state == "billed":
                return _launch("already_billed", month, None, base_url)
            run_id = runs.launch(month, facts.actor, verify=wanted.verify)
            detail = f"{PROCESS_PATH}, verify={wanted.verify}"
            ledger.record_action(month, Actor(facts.actor, run_id), "run_launched", detail)
    except MonthLockedError as error:
        words = "Another server is launching a run.", "Try again."
        raise ApiError(503, "busy", *words, headers={"Retry-After": "5"}) from error
    facts.action = f"launched {month} run {run_id}"
    response.status_code = HTTPStatus.ACCEPTED
    return _launch("started", month, run_id, base_url)


@router.get(MONTHS_PATH, operation_id="listMonths", response_model=Months)
def list_months(
    context: api.Context,
    runs: Runs,
    base_url: api.BaseUrl,
    limit: Annotated[int, Field(ge=1, le=120, description="How many months."), api.DIGITS] = 12,
) -> Response:
    """Say where the latest months stand, the newest first."""
    wanted = all_months(context.ledger, context.clock())[:limit]
    months = [_read(context, runs, month, base_url, most_runs=1) for month in wanted]
    return json_answer(Months(months=months).model_dump())


@router.get(MONTHS_PATH + "/{month}", operation_id="showMonth", response_model=MonthAnswer)
def show_month(context: api.Context, runs: Runs, base_url: api.BaseUrl, month: api.MonthInPath) -> Response:
    """Say where a month stands, with its latest runs."""
    return json_answer(_read(context, runs, month, base_url, most_runs=10).model_dump())


def read_reviewed(ledger: Ledger, month: Month) -> Reviewed:
    """Read what the month's review found, and what was decided since, the newest first."""
    with ledger.reading() as connection:
        review, decided = read_review(connection, month), read_decisions(connection, month)
    shown = list(reversed(decided[-50:]))
    return Reviewed.model_validate({"review": review, "decisions": shown}, from_attributes=True)


def _read(
    context: WebContext, runs: DagsterRuns, month: Month, base_url: str, *, most_runs: int
) -> MonthAnswer:
    return MonthAnswer(
        **month_status(context.ledger, month, context.clock()).as_json(),
        **dict(read_reviewed(context.ledger, month)),
        runs=runs.latest(month, most_runs, base_url),
    )


def _under_way(month: Month, run: Run | None, base_url: str) -> ApiError:
    if run is None:
        message = f"{month} is being billed right now by a process that is no run of this Dagster."
        remedy = "Wait until it has ended; a run after that takes up what is left."
    else:
        message, remedy = f"{month} has a run under way: {run.status.lower()}.", "Wait until it has ended."
    launch = _launch("already_running", month, run.id if run else None, base_url)
    return ApiError(409, "already_running", message, remedy, **launch.model_dump(exclude_unset=True))


def _launch(status: _LaunchStatus, month: Month, run_id: str | None, base_url: str) -> Launch:
    run: dict[str, Any] = {"run": f"{base_url}/runs/{run_id}"} if run_id else {}
    links = LaunchLinks(status=f"{base_url}{MONTHS_PATH}/{month}", **run)
    return Launch(status=status, month=str(month), run_id=run_id, links=links)
