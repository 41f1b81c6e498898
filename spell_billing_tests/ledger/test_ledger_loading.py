"""Drafts by the batch: bills and audit entries belong together, whatever happens on the way."""

import os
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from threading import Barrier
from typing import Any, cast

import psycopg
import pytest
import sqlalchemy as sa

from spell_billing.core.drafting import Draft
from spell_billing.core.errors import LedgerError, LedgerLostError
from spell_billing.core.month import Month
from spell_billing.ledger import copying
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Actor
from spell_billing.ledger.session import MonthSession
from spell_billing.settings.databases import DatabaseUrl, parse_database_url

OCTOBER, NOVEMBER = Month(2026, 10), Month(2026, 11)
USERS = [f"user-{number:04}" for number in range(500)]

MakeDraft = Callable[..., Draft]


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 120 bills on, instead of 6,000."""
    monkeypatch.setattr(copying, "BATCH_BLOCKS", 1)


@pytest.fixture
def ledger_of_postgres(postgres_url: str) -> Iterator[Ledger]:
    with Ledger(parse_database_url(postgres_url, setting="DATABASE_URL")) as opened:
        yield opened


def write(session: MonthSession, drafts: Iterator[Draft]) -> None:
    session.replace_drafts(drafts, usage_version="v1", calls=3, usage_cents=Decimal(1))


def audited(ledger: Ledger, month: Month) -> Counter[tuple[str, str]]:
    return Counter((row["user_id"], row["to_state"]) for row in ledger.audit_trail(month))


def billed(ledger: Ledger, month: Month) -> Counter[tuple[str, str]]:
    return Counter((bill.user_id, bill.state.value) for bill in ledger.bills(month))


def test_each_bill_of_each_batch_is_audited_once_beside_another_month(
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
            assert audited(ledger, month) == billed(ledger, month)


def test_another_month_that_is_done_meanwhile_is_not_audited_with_this_one(
    ledger_of_postgres: Ledger, make_draft: MakeDraft
) -> None:
    def drafts() -> Iterator[Draft]:
        for number, user in enumerate(USERS):
            if number % 100 == 10:
                month = OCTOBER.plus(number)
                with ledger_of_postgres.session(month, Actor("other"), wait_seconds=0) as other:
                    write(other, iter([make_draft(f"other-{number}", month=month)]))
            yield make_draft(user)

    with ledger_of_postgres.session(OCTOBER, Actor("biller"), wait_seconds=0) as session:
        write(session, drafts())

    assert audited(ledger_of_postgres, OCTOBER) == billed(ledger_of_postgres, OCTOBER)


@pytest.mark.parametrize("at_once", [1, 100])
def test_ids_below_those_of_other_bills_are_audited_too(
    ledger_of_postgres: Ledger, make_draft: MakeDraft, at_once: int
) -> None:
    """As after a restore that left the sequence behind, or where sessions take many ids at once."""
    with ledger_of_postgres.writing() as connection:
        connection.exec_driver_sql(f"ALTER SEQUENCE ledger_invoices_id_seq CACHE {at_once}")
    for month, first_id in ((NOVEMBER, 1_000_000), (OCTOBER, 1)):
        with ledger_of_postgres.writing() as connection:
            connection.exec_driver_sql(f"SELECT setval('ledger_invoices_id_seq', {first_id}, false)")
        with Ledger(ledger_of_postgres._url) as anew:
            with anew.session(month, Actor("biller"), wait_seconds=0) as session:
                write(session, (make_draft(user, month=month) for user in USERS))
            assert audited(anew, month) == billed(anew, month)
            assert len(billed(anew, month)) == len(USERS)


@pytest.mark.parametrize("after", [0, 1, 63, 64, 250, len(USERS)])
def test_drafts_that_break_off_between_batches_leave_nothing_and_a_session_that_works(
    ledger: Ledger, make_draft: MakeDraft, after: int
) -> None:
    def broken() -> Iterator[Draft]:
        yield from map(make_draft, USERS[:after])
        raise OSError("the frozen usage cannot be read")

    with ledger.session(OCTOBER, Actor("biller"), wait_seconds=0) as session:
        with pytest.raises(OSError, match="frozen"):
            write(session, broken())
        assert (billed(ledger, OCTOBER), audited(ledger, OCTOBER)) == (Counter(), Counter())

        write(session, map(make_draft, USERS))
        assert audited(ledger, OCTOBER) == billed(ledger, OCTOBER)


@pytest.mark.parametrize("refused", [0, 200, len(USERS) - 1])
def test_an_audit_entry_that_is_refused_leaves_no_bill(
    ledger_of_postgres: Ledger, make_draft: MakeDraft, refused: int
) -> None:
    with ledger_of_postgres.writing() as connection:
        connection.exec_driver_sql(
            f"ALTER TABLE ledger_audit ADD CONSTRAINT not_this_one CHECK (user_id <> '{USERS[refused]}')"
        )
    with ledger_of_postgres.session(OCTOBER, Actor("biller"), wait_seconds=0) as session:
        with pytest.raises(sa.exc.IntegrityError, match="not_this_one"):
            write(session, map(make_draft, USERS))
        assert billed(ledger_of_postgres, OCTOBER) == Counter()

        write(session, map(make_draft, [user for user in USERS if user != USERS[refused]]))
    assert audited(ledger_of_postgres, OCTOBER) == billed(ledger_of_postgres, OCTOBER)


SWALLOWING = {
    "postgresql": """
        CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN IF NEW.user_id = 'user-0200' THEN RETURN NULL; END IF; RETURN NEW; END $$;
        CREATE TRIGGER swallow BEFORE INSERT ON ledger_audit FOR EACH ROW EXECUTE FUNCTION swallow()
    """,
    "sqlite": """
        CREATE TRIGGER swallow BEFORE INSERT ON ledger_audit WHEN NEW.user_id = 'user-0200'
            BEGIN SELECT RAISE(IGNORE); END
    """,
}


def test_an_audit_entry_that_is_swallowed_leaves_no_bill(
    ledger: Ledger, url: DatabaseUrl, make_draft: MakeDraft
) -> None:
    with ledger.writing() as connection:
        connection.exec_driver_sql(SWALLOWING[url.backend])
    with (
        ledger.session(OCTOBER, Actor("biller"), wait_seconds=0) as session,
        pytest.raises(LedgerError, match="took 500 bills, but 499 audit entries") as raised,
    ):
        write(session, map(make_draft, USERS))
    assert "triggers" in raised.value.remedy
    assert (billed(ledger, OCTOBER), audited(ledger, OCTOBER)) == (Counter(), Counter())


def end_in_the_server(url: str, driver: "psycopg.Connection[object]") -> None:
    with psycopg.connect(url) as admin:
        ended = admin.execute("SELECT pg_terminate_backend(%s, 60000)", [driver.info.backend_pid])
        assert ended.fetchone() == (True,)


def cut_the_line(_: str, driver: "psycopg.Connection[object]") -> None:
    with socket.socket(fileno=os.dup(driver.pgconn.socket)) as line:
        line.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("lose", [end_in_the_server, cut_the_line])
@pytest.mark.parametrize("after", [0, 63, 64, 125, 130, 250, len(USERS)])
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
        assert (billed(ledger_of_postgres, OCTOBER), audited(ledger_of_postgres, OCTOBER)) == (
            Counter(),
            Counter(),
        )
        write(successor, map(make_draft, USERS))
    assert audited(ledger_of_postgres, OCTOBER) == billed(ledger_of_postgres, OCTOBER)
    assert len(billed(ledger_of_postgres, OCTOBER)) == len(USERS)


@pytest.mark.parametrize("after", [1, 64, 130, 160])
def test_a_person_who_interrupts_drafting_does_not_wait_for_a_blocked_audit(
    ledger_of_postgres: Ledger, postgres_url: str, make_draft: MakeDraft, after: int
) -> None:
    def interrupted() -> Iterator[Draft]:
        yield from map(make_draft, USERS[:after])
        raise KeyboardInterrupt

    with ledger_of_postgres.session(OCTOBER, Actor("biller"), wait_seconds=0) as session:
        with psycopg.connect(postgres_url) as other:
            other.execute("LOCK TABLE ledger_audit IN EXCLUSIVE MODE")
            with pytest.raises(KeyboardInterrupt):
                write(session, interrupted())
        assert billed(ledger_of_postgres, OCTOBER) == Counter()

        write(session, map(make_draft, USERS))
    assert audited(ledger_of_postgres, OCTOBER) == billed(ledger_of_postgres, OCTOBER)


def test_an_interruption_ends_an_audit_that_postgresql_has_yet_to_begin(
    ledger_of_postgres: Ledger, postgres_url: str, make_draft: MakeDraft, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a busy machine: the request to cancel comes first, and has no effect."""
    start, cancel_safe = copying._Behind.start, psycopg.Connection.cancel_safe
    stopped: list[int] = []

    def starting(behind: copying._Behind, *arguments: Any, **named: Any) -> None:
        stopped.append(behind._driver.info.backend_pid)
        os.kill(stopped[0], signal.SIGSTOP)
        start(behind, *arguments, **named)

    def cancelling(driver: "psycopg.Connection[object]", **named: Any) -> None:
        try:
            cancel_safe(driver, **named)
        finally:
            os.kill(stopped[0], signal.SIGCONT)

    def interrupted() -> Iterator[Draft]:
        for user in USERS:
            if stopped:
                raise KeyboardInterrupt
            yield make_draft(user)

    with ledger_of_postgres.session(OCTOBER, Actor("biller"), wait_seconds=0) as session:
        with psycopg.connect(postgres_url) as other, monkeypatch.context() as patched:
            other.execute("LOCK TABLE ledger_audit IN EXCLUSIVE MODE")
            patched.setattr(copying._Behind, "start", starting)
            patched.setattr(psycopg.Connection, "cancel_safe", cancelling)
            with pytest.raises(KeyboardInterrupt):
                write(session, interrupted())

        write(session, map(make_draft, USERS))
    assert audited(ledger_of_postgres, OCTOBER) == billed(ledger_of_postgres, OCTOBER)
