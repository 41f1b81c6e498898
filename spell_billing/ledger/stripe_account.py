"""The one Stripe account that a ledger bills, and how what a rehearsal made in test mode is removed."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.errors import LedgerError
from spell_billing.core.month import Month
from spell_billing.ledger.audit_trail import write_audit
from spell_billing.ledger.column_types import metadata
from spell_billing.ledger.money_tables import grants
from spell_billing.ledger.nothing_made import begun_months_that_may_have_something
from spell_billing.ledger.rows import Actor
from spell_billing.ledger.schema import audit, invoices, months, moves, stripe_account

Mode = Literal["test", "live"]

_KEPT = (audit, moves, grants)
"""Not made by billing in test mode; all other tables are emptied."""


@dataclass(frozen=True, slots=True)
class StripeAccount:
    """An account at Stripe, in one mode; `account_id` is None where the key may not read its account."""

    mode: Mode
    account_id: str | None

    def is_other_than(self, other: "StripeAccount") -> bool:
        """Return whether the two are known to differ."""
        known = self.account_id is not None and other.account_id is not None
        return self.mode != other.mode or (known and self.account_id != other.account_id)

    def __str__(self) -> str:
        return f"{self.account_id or 'an account'} in {self.mode} mode"


def read_account(connection: Connection) -> StripeAccount | None:
    """Return the account that the ledger bills, or None before the first request."""
    row = connection.execute(sa.select(stripe_account.c.mode, stripe_account.c.account_id)).first()
    return None if row is None else StripeAccount(row.mode, row.account_id)


def record_account(connection: Connection, account: StripeAccount, now: datetime) -> StripeAccount:
    """Keep the account unless one is recorded, or fill in an id that was unknown; return what is recorded."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text(f"LOCK TABLE {stripe_account.name} IN SHARE ROW EXCLUSIVE MODE"))
    recorded = read_account(connection)
    if recorded is None:
        row = {"mode": account.mode, "account_id": account.account_id, "recorded_at": now}
        connection.execute(stripe_account.insert().values(row))
        return account
    if recorded.account_id is None and recorded.mode == account.mode and account.account_id is not None:
        connection.execute(stripe_account.update().values(account_id=account.account_id))
        return account
    return recorded


def made_nothing(connection: Connection) -> bool:
    """Return whether nothing was made at Stripe, for certain, since the ledger's account was recorded."""
    named = invoices.c.stripe_invoice_id.is_not(None)
    # Of a bill that failed, the audit trail alone has the draft that was deleted.
    since = sa.select(sa.func.max(stripe_account.c.recorded_at)).scalar_subquery()
    told = sa.and_(audit.c.stripe_invoice_id.is_not(None), audit.c.at >= since)
    some = connection.scalar(sa.select(sa.or_(sa.exists().where(named), sa.exists().where(told))))
    return not some and not begun_months_that_may_have_something(connection)


def replace_unused(
    connection: Connection, account: StripeAccount, actor: Actor, now: datetime
) -> StripeAccount | None:
    """Record an account in place of another one in which nothing was made; return what is recorded then.

    The caller keeps months from being pinned meanwhile.
    """
    recorded = read_account(connection)
    if recorded is None or not recorded.is_other_than(account) or not made_nothing(connection):
        return recorded
    row = {"mode": account.mode, "account_id": account.account_id, "recorded_at": now}
    connection.execute(stripe_account.delete())
    connection.execute(stripe_account.insert().values(row))
    drafted = [*connection.scalars(sa.select(months.c.month).order_by(months.c.month))]
    detail = f"nothing was made in {recorded}; from now on {account}"
    entries = (
        {"month": month, "action": "account_replaced", "detail": detail}
        for month in drafted or [str(Month.containing(now))]
    )
    write_audit(connection, actor, now, *entries)
    return account


def newest_finalized(connection: Connection) -> str | None:
    """Return the id of the newest invoice that the ledger knows to be finalized, or None."""
    query = sa.select(invoices.c.stripe_invoice_id).where(
        invoices.c.finalized_at.is_not(None), invoices.c.stripe_invoice_id.is_not(None)
    )
    newest_first = query.order_by(invoices.c.finalized_at.desc(), invoices.c.id.desc())
    found: str | None = connection.scalar(newest_first.limit(1))
    return found


def require_rehearsal(connection: Connection) -> StripeAccount:
    """Return the account that the ledger bills, which must be in test mode.

    Raises:
        LedgerError: when the ledger bills live mode, or nothing tells which mode it billed.
    """
    recorded = read_account(connection)
    if recorded is None:
        raise LedgerError(
            "The ledger knows no Stripe account, so nothing proves that it was billed in test mode.",
            remedy="Nothing was removed. A run with the key that it was billed with records the account.",
        )
    if recorded.mode != "test":
        raise LedgerError(
            f"The ledger bills {recorded}, and what was billed in live mode is never removed.",
            remedy="Give a rehearsal a ledger of its own (DATABASE_URL).",
        )
    return recorded


def count_bills(connection: Connection) -> int:
    """Return how many bills the ledger has, of all months and generations."""
    return connection.scalar(sa.select(sa.func.count()).select_from(invoices)) or 0


def forget_rehearsal(connection: Connection, actor: Actor, now: datetime) -> int:
    """Remove everything that billing in test mode made; the audit trail stays and says so.

    The caller holds every month. Frozen usage stays in its store. Return how many bills were removed.

    Raises:
        LedgerError: as `require_rehearsal`.
    """
    recorded = require_rehearsal(connection)
    bills = dict.fromkeys(connection.scalars(sa.select(months.c.month)), 0)
    count = sa.select(invoices.c.month, sa.func.count().label("bills")).group_by(invoices.c.month)
    bills |= {row.month: row.bills for row in connection.execute(count)}
    for table in metadata.sorted_tables:
        if table not in _KEPT:
            connection.execute(table.delete())
    entries = (
        {"month": month, "action": "rehearsal_forgotten", "detail": f"{number} bills of {recorded} removed"}
        for month, number in sorted(bills.items()) or [(str(Month.containing(now)), 0)]
    )
    write_audit(connection, actor, now, *entries)
    return sum(bills.values())
