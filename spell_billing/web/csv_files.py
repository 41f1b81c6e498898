"""Tables as CSV for spreadsheets: streamed in pages, and no cell of it is ever taken for a formula."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from starlette.responses import StreamingResponse

from spell_billing.core.money import plain
from spell_billing.core.month import Month
from spell_billing.core.spreadsheets import BYTE_ORDER_MARK, safe_cell
from spell_billing.ledger.browsing import LISTED_BILL, BillKey, Search, search_bills
from spell_billing.ledger.ledger import Ledger
from spell_billing.web.month_figures import MonthFigures

PAGE_ROWS = 2_000
_BILL_COLUMNS = ("month", *LISTED_BILL)
_MONTH_COLUMNS = (
    *("month", "state", "currency", "users", "invoices", "invoiced_cents", "paid", "paid_cents"),
    *("failed_cents", "missing_cents"),
)


def bills_csv(ledger: Ledger, month: Month) -> StreamingResponse:
    """Stream all bills of a month, by user id.

    A page at a time, each from a short transaction: a slow download holds nothing open in the ledger.
    """

    def rows() -> Iterator[str]:
        yield BYTE_ORDER_MARK + _lines([_BILL_COLUMNS])
        after: BillKey | None = None
        while True:
            page = _page(ledger, month, after)
            yield _lines(_bill_row(month, bill) for bill in page)
            if len(page) < PAGE_ROWS:
                return
            after = page[-1]["user_id"], page[-1]["generation"]

    return _download(rows(), f"billing-{month}.csv")


def months_csv(
    months: Sequence[Month], figures: Callable[[Sequence[Month]], Sequence[MonthFigures]], at_once: int
) -> StreamingResponse:
    """Stream a line for each month and currency.

    Args:
        months: Which, in order.
        figures: Reads the figures of some months.
        at_once: So many of them are read together.
    """

    def rows() -> Iterator[str]:
        yield BYTE_ORDER_MARK + _lines([_MONTH_COLUMNS])
        for start in range(0, len(months), at_once):
            found = figures(months[start : start + at_once])
            yield _lines(row for each in found for row in _month_rows(each))

    return _download(rows(), "billing.csv")


def _page(ledger: Ledger, month: Month, after: BillKey | None) -> list[dict[str, Any]]:
    with ledger.reading() as connection:
        return search_bills(connection, month, Search(), after=after, limit=PAGE_ROWS)


def _bill_row(month: Month, bill: Mapping[str, Any]) -> list[str | int]:
    finalized_at = bill["finalized_at"]
    values = {
        **bill,
        "usage_cents": plain(bill["usage_cents"]),
        "finalized_at": finalized_at.isoformat() if finalized_at else "",
    }
    # A negative amount is a number of ours, not a formula of anybody's.
    numbers = {"usage_cents", "total_cents", "calls", "generation"}
    return [
        str(month),
        *(values[name] if name in numbers else safe_cell(values[name] or "") for name in LISTED_BILL),
    ]


def _month_rows(figures: MonthFigures) -> Iterable[list[str | int]]:
    for money in figures.money:
        amounts = (money.invoices, money.invoiced_cents, money.paid, money.paid_cents)
        yield [
            str(figures.month),
            figures.state,
            safe_cell(money.currency),
            figures.users,
            *amounts,
            money.failed_cents,
            money.missing_cents,
        ]
    if not figures.money:
        yield [str(figures.month), figures.state, "", 0, 0, 0, 0, 0, 0, 0]


def _lines(rows: Iterable[Sequence[str | int]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _download(rows: Iterator[str], name: str) -> StreamingResponse:
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(rows, media_type="text/csv; charset=utf-8", headers=headers)
