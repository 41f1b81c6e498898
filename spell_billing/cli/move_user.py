"""`spell-billing move-user`: record that usage moved from one user to another."""

import click

from spell_billing.cli.common import clear_errors, person

_MONTHS_BACK = 12
"""A user has usage who has some in this month or as many before it: late usage is looked for as far back."""


@click.command("move-user")
@click.option("--from", "from_user", metavar="ID", required=True, help="Whose usage it was.")
@click.option("--to", "to_user", metavar="ID", required=True, help="Whose usage it is now.")
@click.option("--reason", metavar="TEXT", required=True, help="Why, in words, for the audit trail.")
def command(from_user: str, to_user: str, reason: str) -> None:
    """Record that usage moved from one user to another: a new id, or two users that became one.

    What the one lost and the other gained in months that are billed is then neither charged nor given back.
    Credits of the first go to the second. Safe to repeat; to correct the target, record the right one.
    """
    from datetime import UTC, datetime  # noqa: PLC0415

    from spell_billing.core.month import Month  # noqa: PLC0415
    from spell_billing.ledger.ledger import Ledger  # noqa: PLC0415 - heavy: SQLAlchemy
    from spell_billing.ledger.moves import record_move  # noqa: PLC0415
    from spell_billing.ledger.rows import Actor  # noqa: PLC0415
    from spell_billing.settings.billing import Settings  # noqa: PLC0415
    from spell_billing.usage.source import is_at_platform, open_usage_source  # noqa: PLC0415

    if not reason.strip():
        raise click.BadParameter("say why", param_hint="--reason")
    with clear_errors():
        settings = Settings.from_environment()
        source = open_usage_source(settings.usage_database)
        now = datetime.now(UTC)
        since = Month.containing(now).plus(-_MONTHS_BACK)
        with Ledger(settings.database) as ledger, ledger.writing() as connection:
            recorded = record_move(
                connection,
                from_user,
                to_user,
                reason=reason,
                actor=Actor(person()),
                now=now,
                has_usage=lambda user_id: is_at_platform(source, user_id, since=since, now=now),
            )
    if not recorded:
        click.echo(f"It is recorded already that usage of user {from_user} moved to {to_user}.")
        return
    click.echo(f"Usage of user {from_user} moved to {to_user}: late usage of both is netted from now on.")
