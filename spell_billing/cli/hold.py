"""`spell-billing hold`: hold one user's bill, or everybody's."""

import click

from spell_billing.cli.common import clear_errors, month_option, person, require_one, whom_options
from spell_billing.core.month import Month


@click.command("hold")
@month_option(required=True)
@whom_options
def command(month: Month, user_id: str | None, reason: str, *, everybody: bool) -> None:
    """Hold one user's bill of a drafted month, or everybody's, until `release`. What was sent stays sent."""
    from spell_billing.invoicing.review import hold  # noqa: PLC0415 - heavy: SQLAlchemy
    from spell_billing.ledger.ledger import Ledger  # noqa: PLC0415
    from spell_billing.ledger.rows import Actor  # noqa: PLC0415
    from spell_billing.settings.billing import Settings  # noqa: PLC0415

    require_one(user_id, everybody=everybody)
    if not reason.strip():
        raise click.BadParameter("say why", param_hint="--reason")
    with clear_errors(), Ledger(Settings.from_environment().database) as ledger:
        number = hold(ledger, month, Actor(person()), reason, user_id)
    if user_id is not None:
        click.echo(f"The bill of user {user_id} for {month} is held.")
    else:
        click.echo(f"{number:,} bills of {month} are held, and those that are drafted from now on.")
    click.echo(f"To send it: spell-billing release --month {month}")
