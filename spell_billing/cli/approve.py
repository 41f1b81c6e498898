"""`spell-billing approve`: approve a month in review."""

import click

from spell_billing.cli.common import clear_errors, month_option, person
from spell_billing.core.month import Month


@click.command("approve")
@month_option(required=True)
@click.option("--reason", metavar="TEXT", required=True, help="Why, in words, for the audit trail.")
def command(month: Month, reason: str) -> None:
    """Approve a month that is in review, so that the next `bill` sends it.

    The approval holds for the drafts that were reviewed alone: if rows, accounts or plans change before they
    are sent, the month is reviewed again.
    """
    from spell_billing.invoicing.review import approve  # noqa: PLC0415 - heavy: SQLAlchemy
    from spell_billing.ledger.ledger import Ledger  # noqa: PLC0415
    from spell_billing.ledger.rows import Actor  # noqa: PLC0415
    from spell_billing.settings.billing import Settings  # noqa: PLC0415

    if not reason.strip():
        raise click.BadParameter("say why", param_hint="--reason")
    with clear_errors(), Ledger(Settings.from_environment().database) as ledger:
        review = approve(ledger, month, Actor(person()), reason)
    for finding in review.findings:
        click.echo(f"  - {finding['text']}")
    click.echo(f"{month} is approved as it was reviewed.")
    click.echo(f"Next: spell-billing bill --month {month}")
