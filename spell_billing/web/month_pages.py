"""A month's page of the overview and a user's in it, with what was just decided there."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import Response

from spell_billing.core.errors import StoreError, UsageError
from spell_billing.core.month import Month
from spell_billing.core.outcomes import Reason, State
from spell_billing.ledger.browsing import Search, read_changes, search_bills
from spell_billing.ledger.month_state import read_standing
from spell_billing.ledger.queries import read_month
from spell_billing.ledger.runs import RunResult
from spell_billing.reporting.explain import explain
from spell_billing.usage.store import open_usage_store
from spell_billing.web import cursors
from spell_billing.web.admin import read_reviewed
from spell_billing.web.context import WebContext
from spell_billing.web.decisions import ROLES
from spell_billing.web.errors import error_page
from spell_billing.web.facts import facts_of
from spell_billing.web.launching import DagsterRuns, Run
from spell_billing.web.month_figures import figures_of
from spell_billing.web.pages import FORM_HEADERS, of_code, page
from spell_billing.web.user_story import answer_of, choices_of, left_cents, other_months_waiting

USERS_A_PAGE = 50
RUNS_SHOWN = 10
REFRESH_SECONDS = 5
"""How often a page is loaded again while a run of its month is under way."""
_FIELDS = {"user": "User id", "customer": "Customer id at Stripe", "invoice": "Invoice id at Stripe"}

DONE = {
    "approve": "Approved. The next billing run sends the month.",
    "agree": "Your approval is noted. Nothing is sent until another person approves as well.",
    "hold": "Held. Nothing is sent until it is released.",
    "release": "Released. The next billing run sends it.",
    "settle": "Settled. It no longer waits for an invoice.",
    "already_billed": "No run was started: everyone has an invoice, or nothing to pay.",
    "credit": "Given back with a credit note. See the history below.",
    "void-bill-again": "The invoice is void. Correct the rows first, then bill the month again.",
    "void-for-good": "The invoice is void, and the user is not billed again for the month.",
}
"""What the page says after each decision."""

_NOT_BEGUN = ("NOT_STARTED", "QUEUED")
"""How Dagster names a run that waits for the daemon to start it."""

_ENDED = {
    RunResult.DONE: "everyone has an invoice, or nothing to pay.",
    RunResult.USERS_LEFT: "everyone who could be billed was. The others need a person.",
    RunResult.IN_REVIEW: "nothing was sent; the month waits for approval.",
    RunResult.UNFINISHED: "some users are to be retried, and the next run does so.",
    RunResult.STOPPED: "Stripe, the network or the database did not answer. Bill the month again.",
    RunResult.REFUSED: "nobody can be billed until a person acts. The run in Dagster says why.",
}


@dataclass(frozen=True, slots=True)
class Said:
    """What a page says of a decision: what was done, or why it was refused and what to do about it.

    `given` is what the form held, to be sent once more; `run_id` is of the run that it is about.
    """

    done: str | None = None
    run_id: str | None = None
    refused: tuple[str, str] | None = None
    given: Mapping[str, str] = field(default_factory=dict)
    status_code: int = HTTPStatus.OK


@dataclass(frozen=True)
class MonthPages:
    """Both pages. Every method blocks: call it in a thread."""

    context: WebContext
    _: KW_ONLY
    read_only: bool

    def show(self, request: Request) -> Response:
        """Answer `/billing/{month}` and `/billing/{month}/users/{user_id}`."""
        month, user_id = Month.parse(request.path_params["month"]), request.path_params.get("user_id")
        return self.shown(request, month, user_id, self._said(request, month))

    def shown(self, request: Request, month: Month, user_id: str | None, said: Said) -> Response:
        """Show the page of a month, or of a user in it, with what is said of a decision."""
        runs: DagsterRuns = request.app.state.runs
        run = runs.under_way(month, "")
        # The command line bills without a run that the server knows of.
        is_held = self.context.ledger.is_held(month)
        is_waiting = not is_held and run is not None and run.status in _NOT_BEGUN
        is_billed = is_held or run is not None
        common = {
            "month": month,
            "said": said,
            "given": said.given,
            "run": run,
            "is_billed": is_billed,
            "is_waiting": is_waiting,
            "refresh_seconds": REFRESH_SECONDS,
        }
        # What is decided waits for the run, which holds the month as soon as it has begun.
        allowed = [] if is_billed and not is_waiting else self._allowed(request)
        if user_id is None:
            return self._month(request, month, allowed, common)
        return self._user(month, user_id, allowed, common)

    def _month(self, request: Request, month: Month, allowed: list[str], common: dict[str, Any]) -> Response:
        query = request.query_params
        asked = {name: query.get(name, "").strip() for name in ("q", "in", "state", "reason")}
        address = f"/billing/{month}"
        try:
            search = _search(asked)
        except ValueError:
            words = "There is no such state or reason", "Choose one from the list."
            return error_page(422, *words, back=address)
        after = cursors.unpack(query["after"]) if "after" in query else None
        if "after" in query and after is None:
            return error_page(422, "There is no such page", "Go back to the first one.", back=address)
        ledger = self.context.ledger
        shown = figures_of(ledger, [month], self.context.clock())[0]
        reviewed = read_reviewed(ledger, month)
        with ledger.reading() as connection:
            bills = search_bills(connection, month, search, after=after, limit=USERS_A_PAGE + 1)
            wanted = "compare" in query or (shown.state == "in_review" and bool(reviewed.review))
            changes = read_changes(connection, month) if wanted and shown.record else None
            is_compared = changes is not None and read_month(connection, month.previous()) is not None
        kept = {name: each for name, each in asked.items() if each}
        next_page = None
        if len(bills) > USERS_A_PAGE:
            last = bills[USERS_A_PAGE - 1]
            next_page = f"?{urlencode(kept | {'after': cursors.pack((last['user_id'], last['generation']))})}"
        is_searched = bool(kept) or after is not None
        return page(
            "month.html",
            common["said"].status_code,
            **common,
            figures=shown,
            changes=changes,
            is_compared=is_compared,
            may_bill="bill" in self._allowed(request) and shown.state in {"unbilled", "in_review", "partial"},
            may_hold="hold" in allowed and bool(shown.count({State.PLANNED, State.FAILED, State.HELD})),
            runs=ledger.runs(month, RUNS_SHOWN),
            bills=bills[:USERS_A_PAGE],
            asked=asked,
            fields=_FIELDS,
            states=list(State),
            reasons=list(Reason),
            is_first=after is None,
            first_page=f"?{urlencode(kept)}",
            next_page=next_page,
            review=reviewed.review,
            decisions=reviewed.decisions,
            allowed=allowed,
            # Nobody who searches is interrupted.
            headers=FORM_HEADERS if is_searched else _headers(common, address),
        )

    def _user(self, month: Month, user_id: str, allowed: list[str], common: dict[str, Any]) -> Response:
        context, ledger = self.context, self.context.ledger
        try:
            story = explain(ledger, open_usage_store(context.settings.usage_store), month, user_id)
        except (UsageError, StoreError):
            return error_page(
                503,
                f"The frozen usage of {month.label} is not at hand",
                "Let SPELL_BILLING_USAGE_STORE name the place that has it, or restore it from "
                "the backup. `spell-billing invoices` shows what was billed without it.",
                back=f"/billing/{month}",
            )
        bills = ledger.bills_of_user(month, user_id)
        with ledger.reading() as connection:
            state = read_standing(connection, month).state(context.clock())
            choices = [name for name in choices_of(bills, state) if name in allowed]
            left = left_cents(connection, bills[-1]) if "credit" in choices else 0
            others = other_months_waiting(connection, user_id, month)
        status_code = common["said"].status_code
        if status_code == HTTPStatus.OK and not bills and not story["usage"]["calls"]:
            status_code = HTTPStatus.NOT_FOUND
        return page(
            "story.html",
            status_code,
            **common,
            user_id=user_id,
            story=story,
            answer=answer_of(month, story, bills),
            choices=choices,
            left_cents=left,
            others=others,
            headers=_headers(common, f"/billing/{month}/users/{quote(user_id, safe='')}"),
        )

    def _allowed(self, request: Request) -> list[str]:
        """Name the decisions that who asks may make here."""
        role = facts_of(request.scope).role
        return [] if self.read_only else [name for name, needed in ROLES.items() if role >= needed]

    def _said(self, request: Request, month: Month) -> Said:
        """Return what the address says of a decision: what was done, or the run that was started."""
        run_id = request.query_params.get("run")
        if run_id is None:
            return Said(DONE.get(request.query_params.get("done", "")))
        runs: DagsterRuns = request.app.state.runs
        return Said(self._ended(runs, month, run_id), run_id)

    def _ended(self, runs: DagsterRuns, month: Month, run_id: str) -> str | None:
        """Say what came of a run of the month; nothing of one that has not ended."""
        run = next((each for each in runs.latest(month, RUNS_SHOWN, "") if each.id == run_id), None)
        if run is None or run.ended_at is None:
            return None
        record = next((each for each in self.context.ledger.runs(month) if each.run_id == run_id), None)
        if record is None:
            how = of_code(run.status.lower())
            return f"The billing run has ended: {how}. Its page in Dagster says more."
        return f"The billing run has ended: {_ENDED[record.result]}"


def _headers(common: Mapping[str, Any], address: str) -> Mapping[str, str]:
    if not common["is_billed"]:
        return FORM_HEADERS
    # Led to the address of the run, so that the page says at last what came of it.
    run: Run | None = common["run"]
    place = f"{address}?{urlencode({'run': run.id})}" if run else address
    return {**FORM_HEADERS, "Refresh": f"{REFRESH_SECONDS}; url={place}"}


def _search(asked: Mapping[str, str]) -> Search:
    searched = asked["in"] or "user"
    if searched not in _FIELDS:
        raise ValueError(searched)
    return Search(
        **({searched: asked["q"]} if asked["q"] else {}),
        state=State(asked["state"]) if asked["state"] else None,
        reason=Reason(asked["reason"]) if asked["reason"] else None,
    )
