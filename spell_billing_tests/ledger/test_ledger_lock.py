"""The month's lock: one holder, who is named, waited for, and outlived."""

import errno
import os
import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from threading import Event

import pytest
import sqlalchemy as sa

from spell_billing.core.drafting import Draft
from spell_billing.core.errors import LedgerError, MonthLockedError
from spell_billing.core.month import Month
from spell_billing.core.outcomes import State
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Actor, Change
from spell_billing.settings.databases import DatabaseUrl, create_engine_for, parse_database_url

OCTOBER = Month(2026, 10)
ME = Actor("me")
LONG_SECONDS = 60.0

OtherProcess = Callable[..., "subprocess.Popen[str]"]


def let_go(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def name_of(process: "subprocess.Popen[str]") -> str:
    return f"process {process.pid} on {socket.gethostname()}"


def test_a_month_held_by_another_process_is_refused_with_the_holders_name(
    database_url: str, ledger: Ledger, other_process: OtherProcess
) -> None:
    # Several months: their lock numbers in PostgreSQL are of both signs.
    months = [str(OCTOBER.plus(offset)) for offset in range(6)]
    other = other_process("hold", database_url, *months)

    for month in months:
        told: list[str] = []
        with (
            pytest.raises(MonthLockedError, match=f"{month} is being billed by") as caught,
            ledger.session(Month.parse(month), ME, wait_seconds=0, on_wait=told.append),
        ):
            pass

        assert name_of(other) in caught.value.message
        assert "Wait until that run has ended" in caught.value.remedy
        assert told == []


def test_a_waiting_session_says_once_for_whom_it_waits_and_begins_when_that_one_ends(
    database_url: str, ledger: Ledger, other_process: OtherProcess
) -> None:
    other = other_process("hold", database_url, "2026-10")
    told: list[str] = []

    def on_wait(text: str) -> None:
        told.append(text)
        let_go(other)

    with ledger.session(OCTOBER, ME, wait_seconds=LONG_SECONDS, on_wait=on_wait) as session:
        assert session.record() is None

    assert len(told) == 1
    assert name_of(other) in told[0]


def test_a_killed_holder_leaves_the_month_free(
    database_url: str, ledger: Ledger, other_process: OtherProcess
) -> None:
    other = other_process("hold", database_url, "2026-10")

    with ledger.session(OCTOBER, ME, wait_seconds=LONG_SECONDS, on_wait=lambda _: other.kill()) as session:
        assert session.record() is None

    assert other.wait() == -9


def test_waiting_ends_after_the_time_it_was_given_and_other_months_are_not_held_up(
    database_url: str, ledger: Ledger, other_process: OtherProcess
) -> None:
    other_process("hold", database_url, "2026-10")
    told: list[str] = []

    with (
        pytest.raises(MonthLockedError),
        ledger.session(OCTOBER, ME, wait_seconds=0.3, on_wait=told.append),
    ):
        pass
    with (
        ledger.session(Month(2026, 9), ME, wait_seconds=0),
        ledger.session(Month(2026, 11), ME, wait_seconds=0) as session,
    ):
        session.start_billing()

    assert len(told) == 1


def test_threads_of_one_process_exclude_each_other_too(url: DatabaseUrl) -> None:
    held, done = Event(), Event()

    def hold() -> None:
        with Ledger(url) as ledger, ledger.session(OCTOBER, ME, wait_seconds=0):
            held.set()
            assert done.wait(LONG_SECONDS)

    with ThreadPoolExecutor(1) as pool, Ledger(url) as ledger:
        holder = pool.submit(hold)
        try:
            assert held.wait(LONG_SECONDS)
            with (
                pytest.raises(MonthLockedError, match=f"process {os.getpid()} on"),
                ledger.session(OCTOBER, ME, wait_seconds=0),
            ):
                pass
        finally:
            done.set()
        holder.result()


def test_a_session_that_fails_gives_the_month_back(ledger: Ledger, url: DatabaseUrl) -> None:
    def fail() -> None:
        with ledger.session(OCTOBER, ME, wait_seconds=0):
            raise RuntimeError("on the way")

    for _ in range(3):
        with pytest.raises(RuntimeError, match="on the way"):
            fail()
    with Ledger(url) as other, other.session(OCTOBER, ME, wait_seconds=0):
        pass


def test_a_holder_that_lost_its_connection_writes_no_more(
    postgres_url: str, make_draft: Callable[..., Draft]
) -> None:
    url = parse_database_url(postgres_url, setting="DATABASE_URL")
    kill = sa.text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name LIKE 'spell_billing 2%'"
    )
    admin = create_engine_for(url)
    try:
        with Ledger(url) as ledger, ledger.session(OCTOBER, ME, wait_seconds=0) as session:
            session.replace_drafts([make_draft()], usage_version="v1", calls=3, usage_cents=Decimal(1234))
            (bill,) = session.page(None, after_id=0, limit=1)
            change = Change(bill, replace(bill, state=State.DRAFTED), "draft_created")
            with admin.begin() as connection:
                assert connection.scalars(kill).all() == [True]

            # Not only at the first attempt: SQLAlchemy would connect anew at the second.
            for _ in range(2):
                with pytest.raises(LedgerError, match="connection that held 2026-10"):
                    session.apply([change])
            with Ledger(url) as other, other.session(OCTOBER, ME, wait_seconds=0) as successor:
                assert [each.state for each in successor.page(None, after_id=0, limit=9)] == [State.PLANNED]
    finally:
        admin.dispose()


def test_a_connection_lost_after_the_last_write_is_no_error(postgres_url: str) -> None:
    url = parse_database_url(postgres_url, setting="DATABASE_URL")
    with Ledger(url) as ledger, ledger.session(OCTOBER, ME, wait_seconds=0) as session:
        pid = session._connection.connection.dbapi_connection.info.backend_pid  # type: ignore[union-attr]
        session._connection.commit()
        admin = create_engine_for(url)
        with admin.begin() as connection:
            connection.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        admin.dispose()


def test_the_lock_leaves_no_holder_behind_beside_a_sqlite_file(sqlite_url: str) -> None:
    url = parse_database_url(sqlite_url, setting="DATABASE_URL")
    folder = Path(str(url.sqlite_path)).parent
    with Ledger(url) as ledger, ledger.session(OCTOBER, ME, wait_seconds=0):
        assert [path.name for path in folder.glob("*.holder")] == ["test.db.2026-10.holder"]

    assert list(folder.glob("*.holder")) == []


def test_on_a_full_disk_the_month_is_locked_without_the_holder_s_name(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_text

    def refuse_names(path: Path, *arguments: str, **named: str) -> int:
        if path.suffix == ".holder":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, *arguments, **named)

    monkeypatch.setattr(Path, "write_text", refuse_names)
    url = parse_database_url(sqlite_url, setting="DATABASE_URL")
    with Ledger(url) as ledger, ledger.session(OCTOBER, ME) as session:
        assert session.record() is None
