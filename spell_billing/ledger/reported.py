"""Users who wait for a person, and which of them people were told of."""

from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from spell_billing.core.month import Month
from spell_billing.core.outcomes import TO_DRIVE, Reason, State
from spell_billing.ledger.message_tables import reported_bills
from spell_billing.ledger.queries import latest_generation
from spell_billing.ledger.schema import invoices, months

_FOR_A_PERSON = (State.FAILED, State.HELD, State.PARKED)
_SAME_BILL = reported_bills.c.bill_id == invoices.c.id
_SAME_STATE = sa.and_(
    reported_bills.c.state == invoices.c.state, reported_bills.c.reason == invoices.c.reason
)


@dataclass(frozen=True, slots=True)
class Unreported:
    """Users of a month who wait for a person for one reason, and of whom nobody was told.

    Attributes:
        month: The month.
        reason: Why they have no invoice, or must be looked at.
        states: The states of their bills.
        users: How many.
        totals_cents: What they owe, in minor units, by currency.
        newest: When the newest of these bills changed.
    """

    month: Month
    reason: Reason
    states: frozenset[State]
    users: int
    totals_cents: dict[str, int]
    newest: datetime


@dataclass(frozen=True)
class ReportedBills:
    """The table `ledger_reported_bills`.

    Attributes:
        writer: The ledger's engine.
        reader: The same, for reading only.
    """

    writer: Engine
    reader: Engine

    def months_to_look_at(self) -> list[Month]:
        """Return the months whose billing started and that have users who wait for a person, oldest first."""
        query = (
            sa.select(months.c.month)
            .where(months.c.billing_started_at.is_not(None))
            .where(
                sa.exists().where(invoices.c.month == months.c.month, invoices.c.state.in_([*_FOR_A_PERSON]))
            )
            .order_by(months.c.month)
        )
        with self.reader.connect() as connection:
            return [Month.parse(month) for month in connection.scalars(query)]

    def unreported(self, month: Month) -> list[Unreported]:
        """Return the month's users who wait for a person and of whom nobody was told, by reason."""
        columns = (invoices.c.reason, invoices.c.state, invoices.c.currency)
        query = (
            sa.select(
                *columns,
                sa.func.count(),
                sa.func.sum(invoices.c.total_cents),
                sa.func.max(invoices.c.updated_at),
            )
            .where(_to_report(month))
            .group_by(*columns)
            .order_by(*columns)
        )
        found: dict[str, list[tuple[str, str, int, int, datetime]]] = {}
        with self.reader.connect() as connection:
            for reason, *rest in connection.execute(query):
                state, currency, users, cents, newest = rest
                found.setdefault(reason, []).append((state, currency, users, int(cents), newest))
        return [
            Unreported(
                month=month,
                reason=Reason(reason),
                states=frozenset(State(state) for state, *_ in groups),
                users=sum(users for _, _, users, _, _ in groups),
                totals_cents={
                    currency: sum(cents for _, other, _, cents, _ in groups if other == currency)
                    for _, currency, *_ in groups
                },
                newest=max(newest for *_, newest in groups),
            )
            for reason, groups in found.items()
        ]

    def first_users(self, group: Unreported, limit: int) -> list[str]:
        """Return the first users of a group, by user id."""
        query = (
            sa.select(invoices.c.user_id)
            .where(_to_report(group.month), invoices.c.reason == group.reason.value)
            .order_by(invoices.c.user_id)
            .limit(limit)
        )
        with self.reader.connect() as connection:
            return list(connection.scalars(query))

    def mark(self, group: Unreported) -> None:
        """Note that people were told of a group; a bill that changed since it was read is left out."""
        query = sa.select(
            invoices.c.id, invoices.c.state, invoices.c.reason, sa.literal(datetime.now(UTC), _REPORTED_AT)
        ).where(
            _to_report(group.month),
            invoices.c.reason == group.reason.value,
            invoices.c.updated_at <= group.newest,
        )
        with self.writer.begin() as connection:
            connection.execute(
                reported_bills.insert().from_select(["bill_id", "state", "reason", "reported_at"], query)
            )

    def forget_changed(self) -> None:
        """Drop the bills that are no longer in the state that was told, so that they can be told again.

        A bill that the next run takes up keeps its row: it may come back to the same state unmended.
        """
        changed = (
            sa.select(reported_bills.c.bill_id)
            .outerjoin(invoices, _SAME_BILL)
            .where(
                sa.or_(
                    invoices.c.id.is_(None),
                    sa.and_(invoices.c.state.not_in([*TO_DRIVE]), ~_SAME_STATE),
                    invoices.c.reason.is_(None) & invoices.c.state.not_in([*TO_DRIVE]),
                )
            )
        )
        # A look takes no write lock: mostly there is nothing to drop.
        with self.reader.connect() as connection:
            if connection.scalar(changed.limit(1)) is None:
                return
        with self.writer.begin() as connection:
            connection.execute(
                reported_bills.delete().where(reported_bills.c.bill_id.in_(changed.scalar_subquery()))
            )


_REPORTED_AT = reported_bills.c.reported_at.type


def _to_report(month: Month) -> sa.ColumnElement[bool]:
    return sa.and_(
        latest_generation(month),
        invoices.c.state.in_([*_FOR_A_PERSON]),
        invoices.c.reason.is_not(None),
        ~sa.exists().where(_SAME_BILL, _SAME_STATE),
    )
