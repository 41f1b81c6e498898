"""The session of the month's holder: its writes, each in one transaction with its audit entry."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.drafting import Draft
from spell_billing.core.errors import LedgerError, LedgerLostError
from spell_billing.core.keys import LONGEST_METADATA
from spell_billing.core.month import Month
from spell_billing.core.outcomes import TO_DRIVE, UNSENT, State
from spell_billing.ledger.audit_trail import write_audit
from spell_billing.ledger.changes import insert_drafts, write_changes
from spell_billing.ledger.column_types import put_row
from spell_billing.ledger.history import read_history
from spell_billing.ledger.month_state import undone_months
from spell_billing.ledger.nothing_made import (
    forget_nothing_made,
    has_left_something,
    note_nothing_made,
    starts_over,
)
from spell_billing.ledger.outbox import follow_drafts
from spell_billing.ledger.payments import Payment, keep_payments
from spell_billing.ledger.queries import (
    is_counted_on,
    is_replaced,
    read_bills,
    read_bills_to_redraft,
    read_month,
)
from spell_billing.ledger.reviews import read_review
from spell_billing.ledger.rows import DRAFTED, Actor, Bill, Change, DraftRow, new_bill_values
from spell_billing.ledger.schema import invoices, months, reviews
from spell_billing.ledger.settling import settle
from spell_billing.ledger.totals import drafted_usage

_MANY_USERS = 10_000
_Given = ParamSpec("_Given")
_Answer = TypeVar("_Answer")
_FOUND_BY = ("month", "state", "reason", "currency", "user_id", "generation")


def _asked(
    question: Callable[Concatenate[Connection, Month, _Given], _Answer],
) -> Callable[Concatenate["MonthSession", _Given], _Answer]:
    """Return the method that asks a question about the month in a transaction of the holder."""

    @wraps(question)
    def method(session: "MonthSession", /, *args: _Given.args, **named: _Given.kwargs) -> _Answer:
        return session.write(question, session.month, *args, **named)

    return method


class MonthSession:
    """Writes one month's bills while the month's lock is held. Not thread-safe: one call at a time."""

    def __init__(
        self,
        connection: Connection,
        month: Month,
        actor: Actor,
        *,
        require_lock: Callable[[], None] = lambda: None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._connection = connection
        self._require_lock = require_lock
        self._now = now
        self.month = month
        self.actor = actor
        self.drafts_hash: str | None = None
        """Of the drafts that this session wrote in place of all earlier ones; see `queries.drafts_hash`."""

    record = _asked(read_month)
    bills_to_redraft = _asked(read_bills_to_redraft)
    history = _asked(read_history)
    review = _asked(read_review)
    drafted_usage = _asked(drafted_usage)
    starts_over = _asked(starts_over)
    has_left_something = _asked(has_left_something)
    note_nothing_made = _asked(note_nothing_made)

    def page(self, states: Iterable[State] | None, *, after_id: int, limit: int) -> list[Bill]:
        """Return up to `limit` bills in the given states with ids above `after_id`."""
        return self.write(read_bills, self.month, states=states, after_id=after_id, limit=limit)

    def bills_of_users(self, user_ids: Collection[str]) -> list[Bill]:
        """Return the users' bills, every generation; an id of 500 characters may be a longer one, cut off."""
        cut_off = [user_id for user_id in user_ids if len(user_id) == LONGEST_METADATA]
        named: sa.ColumnElement[bool] = invoices.c.user_id.in_(list(user_ids))
        if cut_off:
            named |= sa.func.substr(invoices.c.user_id, 1, LONGEST_METADATA).in_(cut_off)
        return self.write(read_bills, self.month, named)

    def bills_of_invoices(self, invoice_ids: Collection[str]) -> dict[str, Bill]:
        """Return the month's bills that name these invoices, by invoice id."""
        named = invoices.c.stripe_invoice_id.in_(list(invoice_ids))
        found = self.write(read_bills, self.month, named)
        return {str(each.stripe_invoice_id): each for each in found}

    def superseded(self) -> list[Bill]:
        """Return bills that were not sent although a later generation of them exists."""
        return self.write(read_bills, self.month, is_replaced(), states=UNSENT | TO_DRIVE)

    def is_undone(self) -> bool:
        """Return whether some user's latest bill keeps the month from being billed."""
        return self.month in self.write(undone_months, self.month)

    def has_begun(self) -> bool:
        """Return whether billing has started: drafts are frozen."""
        record = self.record()
        return record is not None and record.billing_started_at is not None

    def replace_drafts(
        self, drafts: Iterable[Draft | DraftRow], *, usage_version: str, calls: int, usage_cents: Decimal
    ) -> None:
        """Write the month's drafts in place of earlier ones, none of which was sent; one audit entry for all.

        Raises:
            LedgerError: when billing of the month has started: what was billed is frozen.
        """
        month, now = str(self.month), self._now()
        with self.writing() as connection:
            record = read_month(connection, self.month)
            if record is not None and record.billing_started_at is not None:
                raise LedgerError(
                    f"Billing of {month} started at {record.billing_started_at:%Y-%m-%d %H:%M:%S} UTC: "
                    "its drafts are frozen.",
                    remedy="Later usage goes onto a later invoice.",
                )
            connection.execute(invoices.delete().where(invoices.c.month == month))
            # Until these drafts are reviewed themselves, nothing of them is sent.
            connection.execute(reviews.delete().where(reviews.c.month == month))
            users, fingerprint = insert_drafts(
                connection, self.month, drafts, run_id=self.actor.run_id, now=now
            )
            follow_drafts(connection, self.month)
            if users >= _MANY_USERS and connection.dialect.name == "postgresql":
                # Until PostgreSQL knows of them, its plans for the month are slower by a factor of three.
                # A rough idea is enough until autovacuum looks: 0.03 s, where a full look takes 0.3.
                connection.execute(sa.text("SET LOCAL default_statistics_target = 10"))
                connection.execute(sa.text(f"ANALYZE {invoices.name} ({', '.join(_FOUND_BY)})"))
            frozen = {"usage_version": usage_version, "calls": calls, "usage_cents": usage_cents}
            put_row(connection, months, {"month": month, "users": users, "drafted_at": now, **frozen})
            # Each bill has its own amounts, time and run, and the next entry of it the state it had.
            self._audit(now, action=DRAFTED, detail=f"{users:,} bills, frozen usage {usage_version}")
        self.drafts_hash = fingerprint

    def start_billing(self) -> bool:
        """Pin the month's frozen usage and drafts, for invoices to be made; return False if they were."""
        self.write(forget_nothing_made, self.month)
        return self._stamp_month("billing_started_at", "billing_started")

    def take_back_start(self) -> bool:
        """Undo `start_billing` where nothing was made at Stripe: the next run freezes anew.

        Return False when another month was drafted or pinned since, and counts with this one as it is.
        """
        month, now = str(self.month), self._now()
        with self.writing() as connection:
            record = read_month(connection, self.month)
            if record is None or record.billing_started_at is None:
                return True
            if is_counted_on(connection, record):
                return False
            forget_nothing_made(connection, self.month)
            connection.execute(months.update().where(months.c.month == month).values(billing_started_at=None))
            self._audit(now, action="billing_start_taken_back")
        return True

    def finish_billing(self) -> None:
        """Record that every user of the month is invoiced or rightly skipped."""
        self._stamp_month("billed_at", "month_billed")

    def add_generation(self, bill: Bill, draft: Draft) -> None:
        """Add the bill that follows a voided one. A month that was billed is so no longer."""
        now = self._now()
        generation = bill.generation + 1
        values = new_bill_values(self.month, draft, generation=generation, run_id=self.actor.run_id, now=now)
        with self.writing() as connection:
            connection.execute(invoices.insert().values(values))
            month = months.update().where(months.c.month == str(self.month))
            connection.execute(month.values(billed_at=None))
            entry = {"user_id": bill.user_id, "generation": generation, "to_state": draft.state}
            self._audit(now, action="drafted_again", **entry)

    def insert(self, values: dict[str, Any], *, action: str, detail: str | None = None) -> None:
        """Add a bill that the ledger lacked, as found at Stripe."""
        now = self._now()
        stamped = {**values, "run_id": self.actor.run_id, "created_at": now, "updated_at": now}
        with self.writing() as connection:
            connection.execute(invoices.insert().values(stamped))
            entry = {name: values.get(name) for name in ("user_id", "generation", "stripe_invoice_id")}
            self._audit(now, action=action, to_state=values["state"], detail=detail, **entry)

    def apply(self, changes: Sequence[Change]) -> list[Bill]:
        """Write many changes in one transaction, each with its audit entry; return the bills as they are now.

        Raises:
            LedgerLostError: when a bill left the state its change started from, not by a payment; nothing is
                written.
        """
        if not changes:
            return []
        return self.write(write_changes, changes, self.actor, self._now())

    def follow(self, payment: Payment) -> None:
        """Write down what Stripe says of a payment; the bill follows, unless later news is known."""
        with self.writing() as connection:
            keep_payments(connection, [payment])
            settle(connection, actor=self.actor, invoice_ids=[payment.stripe_invoice_id])

    def write(
        self,
        change: Callable[Concatenate[Connection, _Given], _Answer],
        *args: _Given.args,
        **named: _Given.kwargs,
    ) -> _Answer:
        """Make one change, or ask one question, in a transaction of the holder; return the result."""
        with self.writing() as connection:
            return change(connection, *args, **named)

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Return the holder's connection in a transaction, in which it still holds the month."""
        # SQLAlchemy would go on with a new connection, and that one does not hold the month's lock.
        if self._connection.invalidated:
            raise self._lost()
        try:
            with self._connection.begin():
                self._require_lock()
                yield self._connection
        except sa.exc.DBAPIError as error:
            if error.connection_invalidated:
                raise self._lost() from error
            raise

    def _stamp_month(self, column: str, action: str) -> bool:
        now = self._now()
        unstamped = months.update().where(months.c.month == str(self.month), months.c[column].is_(None))
        with self.writing() as connection:
            stamped = bool(connection.execute(unstamped.values({column: now})).rowcount)
            if stamped:
                self._audit(now, action=action)
        return stamped

    def _audit(self, now: datetime, **entry: Any) -> None:
        write_audit(self._connection, self.actor, now, {"month": str(self.month), **entry})

    def _lost(self) -> LedgerLostError:
        return LedgerLostError(
            f"The connection that held {self.month} in the ledger was lost, and the lock with it.",
            remedy="Check the database, then bill the month again; it does what is left.",
        )
