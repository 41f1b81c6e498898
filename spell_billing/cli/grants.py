"""What users have to pay bills with in advance: `grant`, `grants`, `revoke-grant`."""

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import click

from spell_billing.cli.common import (
    CentsType,
    UserType,
    actor,
    json_option,
    open_ledger,
    reason_option,
    say,
    write_json,
)
from spell_billing.core.errors import LedgerError
from spell_billing.core.money import format_money
from spell_billing.core.month import Month

if TYPE_CHECKING:
    from spell_billing.core.grants import Grant

_MONTHS_BACK = 12
"""How far back usage of the user is looked for."""

id_option = click.option("--id", "grant_id", metavar="ID", required=True, help="The grant's own id.")


class _Day(click.ParamType[date]):
    name = "YYYY-MM-DD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        try:
            return date.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a day such as 2026-12-31", param, ctx)


@click.command("grant")
@click.option("--user", "user_id", type=UserType(), required=True, help="The platform's user.")
@click.option("--cents", type=CentsType(), metavar="N", required=True, help="In minor units: 500 for $5.00.")
@click.option(
    "--expires",
    "expires_on",
    type=_Day(),
    required=True,
    help="It pays for months that begin before this day.",
)
@reason_option()
@id_option
@click.option("--currency", default="usd", show_default=True, help="Bills in other currencies do not use it.")
@click.option("--paid", "is_paid", is_flag=True, help="The user bought it. Else it is promotional.")
def grant(
    *, user_id: str, cents: int, expires_on: date, reason: str, grant_id: str, currency: str, is_paid: bool
) -> None:
    """Grant a user an amount that pays for later bills, before any credit.

    The id makes it once: the same grant again changes nothing. Of bills that are sent already, none changes.
    """
    from spell_billing.ledger.browsing import has_bill  # noqa: PLC0415 - heavy: SQLAlchemy
    from spell_billing.ledger.grants import add_grant  # noqa: PLC0415
    from spell_billing.settings.billing import Settings  # noqa: PLC0415
    from spell_billing.usage.source import is_at_platform, open_usage_source  # noqa: PLC0415

    source = open_usage_source(Settings.from_environment().usage_database)
    with open_ledger() as ledger, ledger.exclusive(on_wait=click.echo), ledger.writing() as connection:
        # Not before the wait: a bill that is drafted meanwhile would count as made after the grant.
        now = datetime.now(UTC)
        since = Month.containing(now).plus(-_MONTHS_BACK)
        if not has_bill(connection, user_id) and not is_at_platform(source, user_id, since=since, now=now):
            raise LedgerError(
                f"User {user_id} has no bill, no account and no usage.",
                remedy="Check the id: it must be written as in usage_counters.",
            )
        made = add_grant(
            connection,
            grant_id,
            user_id,
            cents,
            currency.lower(),
            expires_on=expires_on,
            is_paid=is_paid,
            reason=reason.strip(),
            actor=actor(),
            now=now,
        )
    money = format_money(cents, currency.lower(), grouping=True)
    if made:
        say(f"Grant {grant_id}: {money} for user {user_id}, for months that begin before {expires_on}.")
    else:
        say(f"Grant {grant_id} of {money} for user {user_id} already exists.")


@click.command("revoke-grant")
@id_option
@reason_option()
def revoke(grant_id: str, reason: str) -> None:
    """Take back what is left of a grant. What bills used stays used. Safe to repeat."""
    from spell_billing.ledger.grants import revoke_grant  # noqa: PLC0415 - heavy: SQLAlchemy

    with open_ledger() as ledger, ledger.exclusive(on_wait=click.echo), ledger.writing() as connection:
        now = datetime.now(UTC)
        before = revoke_grant(connection, grant_id, reason=reason.strip(), actor=actor(), now=now)
    money = format_money(max(0, before.left_cents), before.currency, grouping=True)
    if before.left_cents > 0:
        say(f"{money} of grant {grant_id} was taken back.")
    else:
        say(f"Nothing is left of grant {grant_id}.")


@click.command("grants")
@click.option("--user", "user_id", metavar="ID", help="Only of this user, and of users who moved to it.")
@json_option
def listed(user_id: str | None, *, as_json: bool) -> None:
    """List grants with what is left of each."""
    from spell_billing.ledger.grants import read_ledger_grants  # noqa: PLC0415 - heavy: SQLAlchemy
    from spell_billing.ledger.moves import read_heirs  # noqa: PLC0415

    with open_ledger() as ledger, ledger.reading() as connection:
        heirs = read_heirs(connection)
        users = None if user_id is None else heirs.together_with(user_id)
        found = read_ledger_grants(connection, users)
    if as_json:
        write_json([_as_json(each, heirs.heir_of(each.user_id)) for each in found])
        return
    for each in found:
        say(_in_words(each))
    if not found:
        say("There are no grants." if user_id is None else f"User {user_id} has no grants.")


def _in_words(grant: "Grant") -> str:
    def money(cents: int) -> str:
        return format_money(cents, grant.currency, grouping=True)

    left_cents = grant.left_cents - grant.expired_cents
    parts = (
        ("used", grant.applied_cents),
        ("revoked", grant.revoked_cents),
        ("expired", grant.expired_cents),
    )
    gone = "".join(f", {money(cents)} {words}" for words, cents in parts if cents)
    return (
        f"{grant.grant_id}: user {grant.user_id}, {grant.kind}, {money(grant.amount_cents)} until "
        f"{grant.expires_on}{gone}; {money(left_cents)} left ({grant.reason})"
    )


def _as_json(grant: "Grant", heir: str) -> dict[str, Any]:
    return {
        "grant_id": grant.grant_id,
        "user_id": grant.user_id,
        "pays_for_user": heir,
        "kind": grant.kind,
        "currency": grant.currency,
        "granted_cents": grant.amount_cents,
        "applied_cents": grant.applied_cents,
        "revoked_cents": grant.revoked_cents,
        "expired_cents": grant.expired_cents,
        "left_cents": grant.left_cents - grant.expired_cents,
        "expires_on": grant.expires_on.isoformat(),
        "granted_at": grant.granted_at.isoformat(),
        "reason": grant.reason,
    }
