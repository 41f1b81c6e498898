"""Grants on a small platform: made as by the command, and altered as by a file's owner."""

from datetime import UTC, datetime

from spell_billing.core.month import Month
from spell_billing.ledger.grants import add_grant
from spell_billing.ledger.rows import Actor
from spell_billing_tests.proof.small_platform import JUNE, SmallPlatform

ONE, TWO = "user-0001", "user-0002"
NOW = datetime(2025, 3, 1, tzinfo=UTC)
SUPPORT = Actor("support")


def grant(
    platform: SmallPlatform,
    grant_id: str,
    cents: int,
    *,
    user: str = ONE,
    expires: Month = JUNE,
    currency: str = "usd",
    paid: bool = False,
    now: datetime = NOW,
) -> bool:
    with platform.ledger() as ledger, ledger.writing() as connection:
        return add_grant(
            connection,
            grant_id,
            user,
            cents,
            currency,
            expires_on=expires.start.date(),
            is_paid=paid,
            reason="agreed",
            actor=SUPPORT,
            now=now,
        )


def unguarded(platform: SmallPlatform, *statements: str) -> None:
    """Alter grants as nothing but the owner of a SQLite file can."""
    platform.sql(
        "DROP TRIGGER ledger_credits_no_update", "DROP TRIGGER ledger_credits_no_delete", *statements
    )
