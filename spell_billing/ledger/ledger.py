"""The ledger: what is read from it, and the session in which the month's holder writes."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from spell_billing.core.month import Month
from spell_billing.core.outcomes import State
from spell_billing.ledger.audit_trail import read_trail, write_audit
from spell_billing.ledger.cursors import require_redrafted
from spell_billing.ledger.erasing import require_no_unfinished_erasure
from spell_billing.ledger.history import pinned_versions, read_history
from spell_billing.ledger.lock import HOLDER, is_held, month_lock, months_held, process_name, require_sessions
from spell_billing.ledger.migrate import migrate, require_current
from spell_billing.ledger.month_state import read_standing
from spell_billing.ledger.outbox import Outbox
from spell_billing.ledger.queries import read_bills, read_month, read_months, told_of_own_month
from spell_billing.ledger.rows import Actor, Bill
from spell_billing.ledger.runs import RunRecord, record_run, runs_of_month
from spell_billing.ledger.schema import invoices
from spell_billing.ledger.session import MonthSession
from spell_billing.ledger.settling import last_action
from spell_billing.ledger.totals import drafted_usage, first_users, group_totals
from spell_billing.settings.databases import DatabaseUrl, create_engine_for, database_errors, unreachable

PAGE_ROWS = 2_000
LISTED = (
    *("user_id", "stripe_customer_id", "stripe_invoice_id", "state", "reason", "message", "calls"),
    *("usage_cents", "total_cents", "currency", "description", "generation", "carried_cents", "finalized_at"),
    *("tax_cents", "discount_cents"),
)
DEFAULT_WAIT_SECONDS = 6 * 3600.0
_LONGEST_NAME = 63
"""PostgreSQL cuts off longer names of connections."""

_Given = ParamSpec("_Given")
_Answer = TypeVar("_Answer")


def _asked(
    question: Callable[Concatenate[Connection, _Given], _Answer],
) -> Callable[Concatenate["Ledger", _Given], _Answer]:
    """Return the method that asks a question in a read-only transaction."""

    @wraps(question)
    def method(ledger: "Ledger", /, *args: _Given.args, **named: _Given.kwargs) -> _Answer:
        return ledger.read(question, *args, **named)

    return method


class Ledger(AbstractContextManager["Ledger", None]):
    """The ledger's database, brought up to date on opening; refused with `read_only` where it is not."""

    def __init__(self, url: DatabaseUrl, *, read_only: bool = False) -> None:
        if url.sqlite_path is not None and not os.path.isfile(url.sqlite_path):  # noqa: PTH113 - never raises
            raise unreachable(url, "the file does not exist; `spell-billing init-db` makes it")
        self._url = url
        self._engine: Engine = create_engine_for(url)
        self._reader = self._engine.execution_options(read_only=True)
        try:
            with database_errors(url):
                require_sessions(url, self._engine)
                (require_current if read_only else migrate)(self._engine)
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @property
    def outbox(self) -> Outbox:
        """What waits to be sent, and what went out."""
        return Outbox(self._engine, self._reader)

    def reading(self) -> AbstractContextManager[Connection]:
        """Return a connection in a read-only transaction."""
        return self._reader.connect()

    def writing(self) -> AbstractContextManager[Connection]:
        """Return a connection in a transaction that commits at its end. Bills are written in a session."""
        return self._engine.begin()

    def read(
        self,
        question: Callable[Concatenate[Connection, _Given], _Answer],
        *args: _Given.args,
        **named: _Given.kwargs,
    ) -> _Answer:
        """Ask one question in a read-only transaction, and return its answer."""
        with self.reading() as connection:
            return question(connection, *args, **named)

    def write(
        self,
        change: Callable[Concatenate[Connection, _Given], _Answer],
        *args: _Given.args,
        **named: _Given.kwargs,
    ) -> _Answer:
        """Make one change in a transaction of its own, and return its result."""
        with self.writing() as connection:
            return change(connection, *args, **named)

    @contextmanager
    def session(
        self,
        month: Month,
        actor: Actor,
        *,
        wait_seconds: float = DEFAULT_WAIT_SECONDS,
        on_wait: Callable[[str], None] = lambda _: None,
        drafting: bool = False,
    ) -> Iterator[MonthSession]:
        """Take the month's lock and return the session through which alone the month is written.

        Raises:
            MonthLockedError: when another process still holds the month after `wait_seconds`, or a run was
                killed while it drafted waiting bills again, and this one is not `drafting`.
            LedgerError: when the erasure of a user was begun and not completed.
        """
        lock = self.exclusive(str(month), wait_seconds=wait_seconds, on_wait=on_wait)
        with lock as (connection, require_lock):
            with self.reading() as reader:
                require_no_unfinished_erasure(reader)
                if not drafting:
                    require_redrafted(reader, month)
            yield MonthSession(connection, month, actor, require_lock=require_lock)

    @contextmanager
    def exclusive(
        self,
        what: str = "drafting",
        *,
        wait_seconds: float = DEFAULT_WAIT_SECONDS,
        on_wait: Callable[[str], None] = lambda _: None,
    ) -> Iterator[tuple[Connection, Callable[[], None]]]:
        """Let one process at a time do a thing: by default, draft a month or start to bill it.

        Months share credits and late usage: two that are drafted at once could both take them. Return the
        connection that holds the lock, which PostgreSQL knows by the holder's name, and the lock's proof.

        Raises:
            MonthLockedError: when another process is still at it after `wait_seconds`.
        """
        name = f"{HOLDER} {what}: {process_name()}"[:_LONGEST_NAME]
        engine = create_engine_for(self._url, application_name=name)
        try:
            with engine.connect() as connection:
                lock = month_lock(self._url, connection, what, wait_seconds=wait_seconds, on_wait=on_wait)
                with lock as require_lock:
                    yield connection, require_lock
        finally:
            engine.dispose()

    month = _asked(read_month)
    months = _asked(read_months)
    standing = _asked(read_standing)
    history = _asked(read_history)
    pinned_versions = _asked(pinned_versions)
    told_of_own_month = _asked(told_of_own_month)
    drafted_usage = _asked(drafted_usage)
    group_totals = _asked(group_totals)
    first_users = _asked(first_users)
    runs = _asked(runs_of_month)
    audit_trail = _asked(read_trail)

    def is_held(self, what: Month | str) -> bool:
        """Return whether a process holds the lock of a month or a thing right now; never waits for it."""
        with self.reading() as connection:
            return is_held(self._url, connection, str(what))

    def months_held(self) -> frozenset[Month]:
        """Return the months that processes hold right now, this one included.

        Raises:
            DatabaseUnreachableError: when the database does not answer.
        """
        with database_errors(self._url), self.reading() as connection:
            return months_held(self._url, connection)

    def last_action(self, month: Month) -> str | None:
        """Return the month's newest audited action, but for those that come beside runs, or None."""
        return self.read(last_action, month=str(month))

    def record_action(self, month: Month, actor: Actor, action: str, detail: str) -> None:
        """Append an audit entry about the month as a whole."""
        entry = {"month": str(month), "action": action, "detail": detail}
        self.write(write_audit, actor, datetime.now(UTC), entry)

    def record_run(self, record: RunRecord) -> None:
        """Record how a billing run of a month ended."""
        self.write(record_run, record)

    def bills(self, month: Month, states: Iterable[State] | None = None) -> Iterator[Bill]:
        """Stream the month's bills in the order of their ids, a page at a time."""
        last_id = 0
        states = None if states is None else frozenset(states)
        while page := self.read(read_bills, month, states=states, after_id=last_id, limit=PAGE_ROWS):
            yield from page
            last_id = page[-1].id

    def listing(self, month: Month, names: Sequence[str] = LISTED) -> Iterator[dict[str, Any]]:
        """Stream the columns of `LISTED`, or some of them, of the month's bills in the order of their ids."""
        columns = [invoices.c[name] for name in names]
        query = sa.select(*columns).where(invoices.c.month == str(month)).order_by(invoices.c.id)
        with self.reading() as connection:
            for row in connection.execution_options(yield_per=PAGE_ROWS).execute(query):
                yield dict(zip(names, row, strict=True))

    def bills_of_user(self, month: Month, user_id: str) -> list[Bill]:
        """Return all generations of one user's bill, oldest first."""
        bills = self.read(read_bills, month, invoices.c.user_id == user_id)
        return sorted(bills, key=lambda bill: bill.generation)
