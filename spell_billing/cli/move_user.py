"""`spell-billing move-user`: record that usage moved from one user to another."""

import click

from spell_billing.cli.common import clear_errors, person


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

    from spell_billing.ledger.ledger import Ledger  # noqa: PLC0415 - heavy: SQLAlchemy
    from spell_billing.ledger.moves import record_move  # noqa: PLC0415
    from spell_billing.ledger.rows import Actor  # noqa: PLC0415
    from spell_billing.settings.billing import Settings  # noqa: PLC0415
    from spell_billing.usage.one_user import has_usage, open_one_user  # noqa: PLC0415

    if not reason.strip():
        raise click.BadParameter("say why", param_hint="--reason")
    with clear_errors():
        settings = Settings.from_environment()
        users = open_one_user(settings.usage_database)
        now = datetime.now(UTC)
        with Ledger(settings.database) as ledger, ledger.writing() as connection:
            recorded = record_move(
                connection,
                from_user,
                to_user,
                reason=reason,
                actor=Actor(person()),
                now=now,
                has_usage=lambda user_id: has_usage(users, user_id, now),
            )
    if not recorded:
        click.echo(f"It is recorded already that usage of user {from_user} moved to {to_user}.")
        return
    click.echo(f"Usage of user {from_user} moved to {to_user}: late usage of both is netted from now on.")
