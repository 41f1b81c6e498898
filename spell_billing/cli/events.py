"""`spell-billing events`: Stripe events that could not be read."""

import click

from spell_billing.cli.common import clear_errors

_SHOWN = 100


@click.command("events")
@click.option("--again", is_flag=True, help="Handle them again, as after an upgrade.")
def command(*, again: bool) -> None:
    """List Stripe events that were set aside because they could not be read.

    All other events are handled. With --again the next tick of the sensor `payments` tries them once more.
    """
    from spell_billing.ledger.events import events_set_aside, handle_again  # noqa: PLC0415
    from spell_billing.ledger.ledger import Ledger  # noqa: PLC0415 - heavy: SQLAlchemy
    from spell_billing.settings.billing import Settings  # noqa: PLC0415

    with clear_errors(), Ledger(Settings.from_environment().database) as ledger:
        with ledger.reading() as connection:
            found = events_set_aside(connection, _SHOWN)
        for event in found:
            click.echo(f"{event.event_id}  {event.type}  {event.created_at:%Y-%m-%d %H:%M} UTC  {event.way}")
        if not found:
            click.echo("No event is set aside.")
        elif again:
            with ledger.writing() as connection:
                number = handle_again(connection)
            click.echo(f"{number:,} wait to be handled again.")
