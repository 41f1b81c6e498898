"""`/admin/billing`: start a month's billing, and say where months stand."""

from decimal import Decimal
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import Body, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from spell_billing.core.errors import MonthLockedError
from spell_billing.core.month import Month, require_billable
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.month_state import MonthState
from spell_billing.ledger.reviews import DecisionKind, read_decisions, read_review
from spell_billing.ledger.rows import Actor
from spell_billing.reporting.status import month_status
from spell_billing.web import api
from spell_billing.web.context import WebContext
from spell_billing.web.errors import ApiError, json_answer
from spell_billing.web.launching import DagsterRuns, Run
from spell_billing.web.month_figures import all_months

MONTHS_PATH = "/admin/billing/months"
PROCESS_PATH = "/admin/billing/process-monthly"
_LaunchStatus = Literal["started", "already_billed", "already_running"]


class DecisionAnswer(BaseModel):
    """What a person decided."""

    kind: DecisionKind
    user_id: str | None
    reason: str
    actor: str
    at: api.Moment


class Finding(BaseModel):
    """What a review found."""

    code: str
    text: str
    data: dict[str, Any]


class ReviewAnswer(BaseModel):
    """A month's review."""

    drafts_hash: str = Field(description="Names the drafts that an approval holds for.")
    reviewed_at: api.Moment
    needs_approval: bool
    approvals_needed: int = Field(description="By how many people.")
    approvals_missing: int
    findings: list[Finding]
    approval: DecisionAnswer | None


class Reviewed(BaseModel):
    """What a month's review found, and what was decided since."""

    review: ReviewAnswer | None
    decisions: list[DecisionAnswer] = Field(description="The newest first.")


class ReasonAnswer(BaseModel):
    """Users of a month who share state and reason."""

    state: str
    reason: str
    users: int
    total_cents: int
    currency: str
    remedy: str
    first_users: list[str]


class CurrencyAmounts(BaseModel):
    """A month's amounts in one currency, in its minor units."""

    total_cents: int
    invoiced_cents: int
    uninvoiced_cents: int


class MonthAnswer(Reviewed):
    """Where a month stands."""

    model_config = ConfigDict(extra="forbid")

    month: api.MonthText
    state: MonthState
    users: int
    calls: int
    usage_cents: Annotated[
        int | Decimal,
        WithJsonSchema({"type": "number", "description": "The exact cost of the frozen usage."}),
    ]
    total_cents: int
    invoiced: int
    failed: int
    held: int
    skipped: int
    parked: int
    pending: int
    void: int
    settled: int
    invoiced_cents: int
    uninvoiced_cents: int
    covered_cents: int
    plan_cents: int = Field(description="What plans and discounts add and take off beside the allowance.")
    late_cents: int
    credit_applied_cents: int
    carried_cents: int
    grants_applied_cents: int = Field(description="What grants paid of the totals.")
    forgiven_cents: int = Field(description="Totals that were too small to be charged.")
    tax_cents: int = Field(description="Tax that Stripe put on top.")
    discount_cents: int = Field(description="What coupons took off.")
    without_tax: int = Field(description="Invoices without the tax that was asked for.")
    paid: int
    paid_cents: int = Field(description="What was received for the invoices.")
    refunded_cents: int
    disputed_cents: int = Field(description="Taken back by banks in disputes that are open or lost.")
    kept_cents: int = Field(description="Paid less refunded less disputed.")
    moved_cents: int = Field(description="Too little to be charged: moved to the next invoices.")
    from_balance_cents: int = Field(description="Paid from customers' balances at Stripe.")
    payment_failed: int
    payment_failed_cents: int
    uncollectible: int
    uncollectible_cents: int
    currencies: list[str]
    by_currency: dict[str, CurrencyAmounts] = Field(
        description="Where there are several currencies: the other amounts add up minor units of all of them."
    )
    reasons: list[ReasonAnswer]
    usage_version: str | None
    runs: list[Run] = Field(description="The newest first.")


class Months(BaseModel):
    """The latest months, the newest first."""

    months: list[MonthAnswer]


class BillingRequest(BaseModel):
    """What to bill; nothing is the last closed month."""

    model_config = ConfigDict(extra="forbid", strict=True)

    month: api.MonthText | None = Field(default=None, description="Default: the last closed month.")
    verify: bool = Field(default=False, description="Ask Stripe what stands even when every user is done.")


class LaunchLinks(BaseModel):
    """Where to look on."""

    status: str
    run: str = ""


class Launch(BaseModel):
    """What became of the request."""

    status: _LaunchStatus
    month: api.MonthText
    run_id: str | None
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
    limit: Annotated[int, Field(ge=1, le=120), api.DIGITS] = 12,
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
