"""Drafts by the batch: the month's bills and its audit entry belong together, whatever happens on the way."""

import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from threading import Barrier
from typing import cast

import psycopg
import pytest
import sqlalchemy as sa

from spell_billing.core.drafting import Draft
from spell_billing.core.errors import LedgerLostError
from spell_billing.core.month import Month
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import DRAFTED, Actor
from spell_billing.ledger.session import MonthSession
from spell_billing.settings.databases import DatabaseUrl, parse_database_url

OCTOBER, NOVEMBER = Month(2026, 10), Month(2026, 11)
USERS = [f"user-{number:04}" for number in range(500)]

MakeDraft = Callable[..., Draft]


@pytest.fixture
def ledger_of_postgres(postgres_url: str) -> Iterator[Ledger]:
    with Ledger(parse_database_url(postgres_url, setting="DATABASE_URL")) as opened:
        yield opened


def write(session: MonthSession, drafts: Iterator[Draft]) -> None:
    session.replace_drafts(drafts, usage_version="v1", calls=3, usage_cents=Decimal(1))


def audited(ledger: Ledger, month: Month) -> list[tuple[str | None, str, str | None]]:
    return [(row["user_id"], row["action"], row["detail"]) for row in ledger.audit_trail(month)]


def billed(ledger: Ledger, month: Month) -> Counter[tuple[str, str]]:
    return Counter((bill.user_id, bill.state.value) for bill in ledger.bills(month))


WHOLE = [(None, DRAFTED, "500 bills, frozen usage v1")]


def test_two_months_drafted_at_once_each_get_their_bills_and_one_entry(
    url: DatabaseUrl, make_draft: MakeDraft
) -> None:
    months = (OCTOBER, NOVEMBER)
    begun = Barrier(len(months))

    def drafts(month: Month) -> Iterator[Draft]:
        for number, user in enumerate(USERS):
            if number == 100 and url.backend == "postgresql":
                # Both have written and neither is done: their ids alternate.
                begun.wait(timeout=60)
            yield make_draft(user, str(number % 2), month=month)

    def draft(month: Month) -> None:
        with Ledger(url) as ledger, ledger.session(month, Actor("biller"), wait_seconds=60) as session:
            write(session, drafts(month))

    with Ledger(url), ThreadPoolExecutor(len(months)) as pool:
        list(pool.map(draft, months))

    with Ledger(url) as ledger:
        for month in months:
            assert len(billed(ledger, month)) == len(USERS)
            assert audited(ledger, month) == WHOLE


@pytest.mark.parametrize("after", [0, 1, 250, len(USERS)])
def test_drafts_that_break_off_leave_nothing_and_a_session_that_works(
    ledger: Ledger, make_draft: MakeDraft, after: int
) -> None:
    def broken() -> Iterator[Draft]:
        yield from map(make_draft, USERS[:after])
        raise OSError("the frozen usage cannot be read")

    with ledger.session(OCTOBER, Actor("biller"), wait_seconds=0) as session:
        with pytest.raises(OSError, match="frozen"):
            write(session, broken())
        assert (billed(ledger, OCTOBER), audited(ledger, OCTOBER)) == (Counter(), [])

        write(session, map(make_draft, USERS))
    assert (len(billed(ledger, OCTOBER)), audited(ledger, OCTOBER)) == (len(USERS), WHOLE)


def test_an_audit_entry_that_is_refused_leaves_no_bill(
    ledger_of_postgres: Ledger, make_draft: MakeDraft
) -> None:
    constraint = "ALTER TABLE ledger_audit ADD CONSTRAINT not_this_one CHECK (month <> '2026-10')"
    with ledger_of_postgres.writing() as connection:
        connection.exec_driver_sql(constraint)
    with (
        ledger_of_postgres.session(OCTOBER, Actor("biller"), wait_seconds=0) as session,
        pytest.raises(sa.exc.IntegrityError, match="not_this_one"),
    ):
        write(session, map(make_draft, USERS))
    assert billed(ledger_of_postgres, OCTOBER) == Counter()


def end_in_the_server(url: str, driver: "psycopg.Connection[object]") -> None:
    with psycopg.connect(url) as admin:
        ended = admin.execute("SELECT pg_terminate_backend(%s, 60000)", [driver.info.backend_pid])
        assert ended.fetchone() == (True,)


def cut_the_line(_: str, driver: "psycopg.Connection[object]") -> None:
    with socket.socket(fileno=os.dup(driver.pgconn.socket)) as line:
        line.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("lose", [end_in_the_server, cut_the_line])
@pytest.mark.parametrize("after", [0, 1, 250, len(USERS)])
def test_a_connection_lost_while_drafting_is_a_lost_month_and_leaves_nothing(
    ledger_of_postgres: Ledger,
    postgres_url: str,
    make_draft: MakeDraft,
    lose: Callable[[str, "psycopg.Connection[object]"], None],
    after: int,
) -> None:
    def interrupted(driver: "psycopg.Connection[object]") -> Iterator[Draft]:
        yield from map(make_draft, USERS[:after])
        lose(postgres_url, driver)
        yield from map(make_draft, USERS[after:])

    with ledger_of_postgres.session(OCTOBER, Actor("biller"), wait_seconds=0) as session:
        driver = cast("psycopg.Connection[object]", session._connection.connection.driver_connection)
        session._connection.commit()
        with pytest.raises(LedgerLostError, match="connection that held 2026-10"):
            write(session, interrupted(driver))

    with ledger_of_postgres.session(OCTOBER, Actor("biller"), wait_seconds=60) as successor:
        assert (billed(ledger_of_postgres, OCTOBER), audited(ledger_of_postgres, OCTOBER)) == (Counter(), [])
        write(successor, map(make_draft, USERS))
    assert (len(billed(ledger_of_postgres, OCTOBER)), audited(ledger_of_postgres, OCTOBER)) == (
        len(USERS),
        WHOLE,
    )


@pytest.mark.parametrize("after", [1, 250])
def test_a_person_who_interrupts_drafting_leaves_nothing_and_a_session_that_works(
    ledger_of_postgres: Ledger, make_draft: MakeDraft, after: int
) -> None:
    def interrupted() -> Iterator[Draft]:
        yield from map(make_draft, USERS[:after])
        raise KeyboardInterrupt

    with ledger_of_postgres.session(OCTOBER, Actor("biller"), wait_seconds=0) as session:
        with pytest.raises(KeyboardInterrupt):
            write(session, interrupted())
        assert billed(ledger_of_postgres, OCTOBER) == Counter()

        write(session, map(make_draft, USERS))
    assert audited(ledger_of_postgres, OCTOBER) == WHOLE
