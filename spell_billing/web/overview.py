"""`/billing`: the overview for finance: months, and months and users as CSV."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from spell_billing.core.money import format_money, plain
from spell_billing.core.month import Month
from spell_billing.core.spreadsheets import BYTE_ORDER_MARK, safe_cell
from spell_billing.ledger.browsing import LISTED_BILL, BillKey, Search, search_bills
from spell_billing.ledger.grants import read_liability
from spell_billing.web.charts import Chart, Column, bar_chart
from spell_billing.web.context import WebContext
from spell_billing.web.decision_forms import form_routes
from spell_billing.web.errors import error_page
from spell_billing.web.forecast import Forecasts
from spell_billing.web.month_figures import MonthFigures, all_months, figures_of
from spell_billing.web.month_pages import MonthPages
from spell_billing.web.pages import page

MONTHS_A_PAGE = 12
PAGE_ROWS = 2_000
_Row = Sequence[str | int]
_BILL_COLUMNS = ("month", *LISTED_BILL)
_NUMBERS = frozenset({"usage_cents", "total_cents", "calls", "generation"})
"""A negative amount is a number of ours, not a formula of anybody's."""
_MONTH_COLUMNS = (
    *("month", "state", "currency", "users", "invoices", "invoiced_cents", "paid", "paid_cents"),
    *("failed_cents", "missing_cents"),
)


def overview_routes(context: WebContext, *, read_only: bool) -> list[Route]:
    """Return the routes below `/billing`; the gate stands before them. A user id may hold slashes."""
    overview = _Overview(context, Forecasts(context))
    pages = MonthPages(context, read_only=read_only)
    return [
        *([] if read_only else form_routes(context, pages)),
        Route("/billing", overview.months, methods=["GET"]),
        Route("/billing.csv", overview.months_file, methods=["GET"]),
        Route("/billing/{month}.csv", overview.month_file, methods=["GET"]),
        Route("/billing/{month}", pages.show, methods=["GET"]),
        Route("/billing/{month}/users/{user_id:path}", pages.show, methods=["GET"]),
        # Without it, what is no page of ours would be left to Dagster, which has a page for every address.
        Route("/billing/{rest:path}", _no_page, methods=["GET"]),
    ]


@dataclass(frozen=True)
class _Overview:
    context: WebContext
    forecasts: Forecasts

    def months(self, request: Request) -> Response:
        text = request.query_params.get("before")
        before = Month.parse(text) if text else None
        months = all_months(self.context.ledger, self.context.clock())
        left = [month for month in months if before is None or month < before]
        figures = self._figures(left[:MONTHS_A_PAGE])
        with self.context.ledger.reading() as connection:
            prepaid = read_liability(connection) if before is None else []
        return page(
            "billing.html",
            now=self.context.clock(),
            months=figures,
            under_way=request.app.state.runs.months_under_way() | self.context.ledger.months_held(),
            waiting=[each for each in figures if each.waiting or each.state in {"in_review", "unbilled"}],
            charts=_charts(figures),
            newest=before is None,
            open_month=self.forecasts.shown() if before is None else None,
            prepaid=prepaid,
            following=left[MONTHS_A_PAGE - 1] if len(left) > MONTHS_A_PAGE else None,
        )

    def months_file(self, _: Request) -> Response:
        """Stream a line for each month and currency."""
        months = all_months(self.context.ledger, self.context.clock())
        some = (months[start : start + MONTHS_A_PAGE] for start in range(0, len(months), MONTHS_A_PAGE))
        batches = ([row for each in self._figures(wanted) for row in _month_rows(each)] for wanted in some)
        return _download("billing.csv", _MONTH_COLUMNS, batches)

    def month_file(self, request: Request) -> Response:
        """Stream all bills of a month, by user id.

        A page at a time, each from a short transaction: a slow download holds nothing open in the ledger.
        """
        month = Month.parse(request.path_params["month"])

        def batches() -> Iterator[list[_Row]]:
            after: BillKey | None = None
            while True:
                with self.context.ledger.reading() as connection:
                    bills = search_bills(connection, month, Search(), after=after, limit=PAGE_ROWS)
                for bill in bills:
                    bill["usage_cents"] = plain(bill["usage_cents"])
                    bill["finalized_at"] = bill["finalized_at"].isoformat() if bill["finalized_at"] else ""
                yield [[str(month), *(_cell(name, bill[name]) for name in LISTED_BILL)] for bill in bills]
                if len(bills) < PAGE_ROWS:
                    return
                after = bills[-1]["user_id"], bills[-1]["generation"]

        return _download(f"billing-{month}.csv", _BILL_COLUMNS, batches())

    def _figures(self, months: Sequence[Month]) -> list[MonthFigures]:
        return figures_of(self.context.ledger, months, self.context.clock())


def _no_page(_: Request) -> Response:
    return error_page(404, "There is no such page", "Check the address.", back="/billing")


def _charts(figures: Sequence[MonthFigures]) -> list[Chart]:
    """Lay out revenue by month, in a chart for each currency, and users; oldest first."""
    drafted = [each for each in reversed(figures) if each.record is not None]
    if not drafted:
        return []
    currencies = sorted({money.currency for each in drafted for money in each.money})
    users = [Column(each.month, each.count()) for each in drafted]
    return [
        *(_revenue(place, currency, drafted) for place, currency in enumerate(currencies)),
        bar_chart("users", "Users by month", unit="Users", columns=users, write="{:,}".format),
    ]


def _revenue(place: int, currency: str, figures: Sequence[MonthFigures]) -> Chart:
    invoiced = [
        sum(money.invoiced_cents for money in each.money if money.currency == currency) for each in figures
    ]
    return bar_chart(
        f"revenue-{place}",
        f"Revenue by month, in {currency.upper()}",
        unit="Invoiced",
        columns=[Column(each.month, cents) for each, cents in zip(figures, invoiced, strict=True)],
        write=lambda cents: format_money(cents, currency, grouping=True),
    )


def _cell(name: str, value: Any) -> str | int:
    return value if name in _NUMBERS else safe_cell(value or "")


def _month_rows(figures: MonthFigures) -> list[_Row]:
    month, state = str(figures.month), figures.state
    if not figures.money:
        return [[month, state, "", 0, 0, 0, 0, 0, 0, 0]]
    return [
        [
            *(month, state, safe_cell(money.currency), figures.count()),
            *(getattr(money, name) for name in _MONTH_COLUMNS[4:]),
        ]
        for money in figures.money
    ]


def _download(name: str, columns: _Row, batches: Iterator[list[_Row]]) -> StreamingResponse:
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(_lines(columns, batches), media_type="text/csv; charset=utf-8", headers=headers)


def _lines(columns: _Row, batches: Iterator[list[_Row]]) -> Iterator[str]:
    yield BYTE_ORDER_MARK + ",".join(map(str, columns)) + "\r\n"
    for rows in batches:
        text = io.StringIO()
        csv.writer(text).writerows(rows)
        yield text.getvalue()
