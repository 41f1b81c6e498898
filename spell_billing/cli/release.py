"""`spell-billing release`: release bills that are held."""

import click

from spell_billing.cli.common import clear_errors, month_option, person, require_one, whom_options
from spell_billing.core.month import Month


@click.command("release")
@month_option(required=True)
@whom_options
def command(month: Month, user_id: str | None, reason: str, *, everybody: bool) -> None:
    """Release one user's held bill, or all of them, as they are now; the next `bill` sends them.

    A bill that is drafted again with other content needs a new release.
    """
    from spell_billing.invoicing.review import release  # noqa: PLC0415 - heavy: SQLAlchemy
    from spell_billing.ledger.ledger import Ledger  # noqa: PLC0415
    from spell_billing.ledger.rows import Actor  # noqa: PLC0415
    from spell_billing.settings.billing import Settings  # noqa: PLC0415

    require_one(user_id, everybody=everybody)
    if not reason.strip():
        raise click.BadParameter("say why", param_hint="--reason")
    with clear_errors(), Ledger(Settings.from_environment().database) as ledger:
        number = release(ledger, month, Actor(person()), reason, user_id)
    if user_id is not None:
        click.echo(f"The bill of user {user_id} for {month} is released.")
    else:
        click.echo(f"{number:,} bills of {month} are released.")
    click.echo(f"Next: spell-billing bill --month {month}")
