"""Tables as CSV for spreadsheets: streamed in pages, and no cell of it is ever taken for a formula."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from starlette.responses import StreamingResponse

from spell_billing.core.money import plain
from spell_billing.core.month import Month
from spell_billing.core.spreadsheets import BYTE_ORDER_MARK, safe_cell
from spell_billing.ledger.browsing import LISTED_BILL, BillKey, Search, search_bills
from spell_billing.ledger.ledger import Ledger
from spell_billing.web.month_figures import MonthFigures

PAGE_ROWS = 2_000
_Row = Sequence[str | int]
_BILL_COLUMNS = ("month", *LISTED_BILL)
_NUMBERS = frozenset({"usage_cents", "total_cents", "calls", "generation"})
"""A negative amount is a number of ours, not a formula of anybody's."""
_MONTH_COLUMNS = (
    *("month", "state", "currency", "users", "invoices", "invoiced_cents", "paid", "paid_cents"),
    *("failed_cents", "missing_cents"),
)


def bills_csv(ledger: Ledger, month: Month) -> StreamingResponse:
    """Stream all bills of a month, by user id.

    A page at a time, each from a short transaction: a slow download holds nothing open in the ledger.
    """

    def pages() -> Iterator[list[_Row]]:
        after: BillKey | None = None
        while True:
            with ledger.reading() as connection:
                page = search_bills(connection, month, Search(), after=after, limit=PAGE_ROWS)
            for bill in page:
                bill["usage_cents"] = plain(bill["usage_cents"])
                bill["finalized_at"] = bill["finalized_at"].isoformat() if bill["finalized_at"] else ""
            yield [[str(month), *(_cell(name, bill[name]) for name in LISTED_BILL)] for bill in page]
            if len(page) < PAGE_ROWS:
                return
            after = page[-1]["user_id"], page[-1]["generation"]

    return _download(f"billing-{month}.csv", _BILL_COLUMNS, pages())


def months_csv(
    months: Sequence[Month], figures: Callable[[Sequence[Month]], Sequence[MonthFigures]], at_once: int
) -> StreamingResponse:
    """Stream a line for each month and currency; `figures` reads those of `at_once` months together."""
    pages = (
        [row for each in figures(months[start : start + at_once]) for row in _month_rows(each)]
        for start in range(0, len(months), at_once)
    )
    return _download("billing.csv", _MONTH_COLUMNS, pages)


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


def _download(name: str, columns: _Row, pages: Iterator[list[_Row]]) -> StreamingResponse:
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(_lines(columns, pages), media_type="text/csv; charset=utf-8", headers=headers)


def _lines(columns: _Row, pages: Iterator[list[_Row]]) -> Iterator[str]:
    yield BYTE_ORDER_MARK + ",".join(map(str, columns)) + "\r\n"
    for page in pages:
        text = io.StringIO()
        csv.writer(text).writerows(page)
        yield text.getvalue()
