"""How the ledger's pages are found among very many rows: by an index, never by reading the table."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.month import Month
from spell_billing.core.outcomes import Reason, State
from spell_billing.ledger.browsing import Search, bills_of, has_bill, search_bills
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.totals import month_groups
from spell_billing.settings.databases import parse_database_url

MARCH = Month(2025, 3)
AFTER = ("user-0500", 1)
READS: dict[str, Callable[[Connection], Any]] = {
    "a user's bills": lambda each: bills_of(each, "user-0001", limit=21),
    "a user's older bills": lambda each: bills_of(each, "user-0001", before=("2025-03", 2), limit=21),
    "whether a user has a bill": lambda each: has_bill(each, "user-0001"),
    "a month's users": lambda each: search_bills(each, MARCH, Search(), limit=51),
    "its next page": lambda each: search_bills(each, MARCH, Search(), after=AFTER, limit=51),
    "users by id": lambda each: search_bills(each, MARCH, Search(user="user-0"), limit=51),
    "users by state": lambda each: search_bills(each, MARCH, Search(state=State.FAILED), limit=51),
    "users by reason": lambda each: search_bills(each, MARCH, Search(reason=Reason.VOIDED), limit=51),
    "users by invoice": lambda each: search_bills(each, MARCH, Search(invoice="in_1"), limit=51),
    "users by customer": lambda each: search_bills(each, MARCH, Search(customer="cus_1"), limit=51),
    "sums of months": lambda each: month_groups(each, [MARCH, MARCH.next()]),
}


@pytest.fixture
def ledger(sqlite_url: str) -> Iterator[Ledger]:
    with Ledger(parse_database_url(sqlite_url, setting="DATABASE_URL")) as opened:
        yield opened


def plans_of(ledger: Ledger, read: Callable[[Connection], Any]) -> list[str]:
    """Give SQLite's plan of each query, a line for each table or index that it goes through."""
    queries: list[tuple[str, Any]] = []
    with ledger.reading() as connection:

        def note(_connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
            if statement.startswith("SELECT"):
                queries.append((statement, values))

        sa.event.listen(connection, "before_cursor_execute", note)
        read(connection)
        return [
            str(row[-1])
            for query, values in tuple(queries)
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", values)
        ]


@pytest.mark.parametrize("what", READS)
def test_no_page_reads_the_whole_table(ledger: Ledger, what: str) -> None:
    plans = plans_of(ledger, READS[what])

    assert plans
    assert [each for each in plans if each.startswith("SCAN ledger_invoices")] == []


def test_sums_of_months_come_from_an_index_alone(ledger: Ledger) -> None:
    plans = plans_of(ledger, READS["sums of months"])

    assert "USING COVERING INDEX ledger_invoices_by_state" in plans[0]
