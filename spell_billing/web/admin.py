"""`/admin/billing`: start a month's billing, and say where months stand."""

import asyncio
from datetime import datetime
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from spell_billing.core.errors import MonthError, MonthLockedError
from spell_billing.core.month import Month, require_billable
from spell_billing.ledger.rows import Actor
from spell_billing.status import month_status
from spell_billing.web.answers import json_answer, json_error
from spell_billing.web.context import WebContext
from spell_billing.web.decisions import decision_routes, in_a_sentence, review_as_json
from spell_billing.web.facts import facts_of
from spell_billing.web.launching import DagsterRuns, LaunchError, Run

MONTHS_PATH = "/admin/billing/months"
PROCESS_PATH = "/admin/billing/process-monthly"
ACTION = "run_launched"
LAUNCH_LOCK = "launching"
LOCK_WAIT_SECONDS = 15.0
DEFAULT_MONTHS = 12
MOST_MONTHS = 120
_RUNS_OF_ONE = 10
_RUNS_OF_EACH = 1
_WHAT_TO_SEND = 'Send {"month": "2026-10"}, with "verify": true or not, or nothing for the last closed month.'


class Order(BaseModel):
    """The body of a request to bill a month."""

    model_config = ConfigDict(extra="forbid", strict=True)

    month: str | None = None
    verify: bool = False


def admin_routes(context: WebContext, runs: DagsterRuns) -> list[Route]:
    """Return the routes of the admin endpoints; the gate stands before them."""
    admin = _Admin(context, runs)
    return [
        Route(PROCESS_PATH, admin.process, methods=["POST"]),
        Route(MONTHS_PATH, admin.list_months, methods=["GET"]),
        Route(MONTHS_PATH + "/{month}", admin.show_month, methods=["GET"]),
        *decision_routes(context),
    ]


class _Admin:
    def __init__(self, context: WebContext, runs: DagsterRuns) -> None:
        self._context = context
        self._runs = runs
        self._launching = asyncio.Lock()

    async def process(self, request: Request) -> Response:
        now = self._context.clock()
        try:
            order = await _order(request)
            month = Month.parse(order.month) if order.month is not None else Month.containing(now).previous()
            settings = self._context.settings
            require_billable(month, first=settings.first_month, now=now, grace=settings.billing_grace)
        except ValidationError as error:
            return json_error(422, "wrong_body", in_a_sentence(error), _WHAT_TO_SEND)
        except MonthError as error:
            return json_error(422, "wrong_month", error.message, error.remedy)
        facts = facts_of(request.scope)
        base_url = self._context.base_url(request)
        # In this process one at a time; between processes the ledger's lock does the same.
        async with self._launching:
            facts.action = f"asked to bill {month}"
            try:
                answer, run_id = await run_in_threadpool(
                    self._bill, month, facts.actor, base_url, verify=order.verify
                )
            except MonthLockedError:
                return json_error(
                    503,
                    "busy",
                    "Another server is launching a run.",
                    "Try again.",
                    headers={"Retry-After": "5"},
                )
            except LaunchError as error:
                return json_error(503, "not_launched", error.message, error.remedy)
        if run_id is not None:
            facts.action = f"launched {month} run {run_id}"
        return answer

    def _bill(self, month: Month, actor: str, base_url: str, *, verify: bool) -> tuple[Response, str | None]:
        ledger = self._context.ledger
        with ledger.exclusive(LAUNCH_LOCK, wait_seconds=LOCK_WAIT_SECONDS):
            run = self._runs.under_way(month)
            if run is not None or ledger.is_held(month):
                return _under_way(month, run, base_url), None
            if not verify and month_status(ledger, month, self._context.clock()).state == "billed":
                content = {"status": "already_billed", "month": str(month), "run_id": None}
                return json_answer(content | _links(month, None, base_url)), None
            run_id = self._runs.launch(month, actor, verify=verify)
            ledger.record_action(month, Actor(actor, run_id), ACTION, f"{PROCESS_PATH}, verify={verify}")
        content = {"status": "started", "month": str(month), "run_id": run_id}
        return json_answer(content | _links(month, run_id, base_url), HTTPStatus.ACCEPTED), run_id

    async def list_months(self, request: Request) -> Response:
        limit = _limit(request.query_params.get("limit", str(DEFAULT_MONTHS)))
        if limit is None:
            return json_error(
                422, "wrong_limit", "limit is not a number of months.", f"Give one from 1 to {MOST_MONTHS}."
            )
        base_url = self._context.base_url(request)
        return json_answer(await run_in_threadpool(self._months, limit, base_url))

    async def show_month(self, request: Request) -> Response:
        try:
            month = Month.parse(request.path_params["month"])
        except MonthError as error:
            return json_error(422, "wrong_month", error.message, error.remedy)
        base_url = self._context.base_url(request)
        return json_answer(await run_in_threadpool(self._month, month, _RUNS_OF_ONE, base_url))

    def _months(self, limit: int, base_url: str) -> dict[str, Any]:
        present = Month.containing(self._context.clock())
        drafted = [Month.parse(each.month) for each in self._context.ledger.months()]
        first = min([*drafted, present.previous()])
        months: list[dict[str, Any]] = []
        while present >= first and len(months) < limit:
            months.append(self._month(present, _RUNS_OF_EACH, base_url))
            present = present.previous()
        return {"months": months}

    def _month(self, month: Month, most_runs: int, base_url: str) -> dict[str, Any]:
        now: datetime = self._context.clock()
        runs = [run.as_json(base_url) for run in self._runs.latest(month, most_runs)]
        ledger = self._context.ledger
        return {**month_status(ledger, month, now).as_json(), **review_as_json(ledger, month), "runs": runs}


async def _order(request: Request) -> Order:
    body = await request.body()
    return Order.model_validate_json(body) if body.strip() else Order()


def _under_way(month: Month, run: Run | None, base_url: str) -> Response:
    if run is None:
        return json_error(
            409,
            "already_running",
            f"{month} is being billed right now by a process that is no run of this Dagster.",
            "Wait until it has ended; a run after that takes up what is left.",
            status="already_running",
            month=str(month),
            run_id=None,
            **_links(month, None, base_url),
        )
    return json_error(
        409,
        "already_running",
        f"{month} has a run under way: {run.status.lower()}.",
        "Wait until it has ended.",
        status="already_running",
        month=str(month),
        run_id=run.id,
        **_links(month, run.id, base_url),
    )


def _links(month: Month, run_id: str | None, base_url: str) -> dict[str, Any]:
    links = {"status": f"{base_url}{MONTHS_PATH}/{month}"}
    if run_id is not None:
        links["run"] = f"{base_url}/runs/{run_id}"
    return {"links": links}


def _limit(text: str) -> int | None:
    if not text.isascii() or not text.isdigit() or len(text) > len(str(MOST_MONTHS)):
        return None
    return int(text) if 1 <= int(text) <= MOST_MONTHS else None
