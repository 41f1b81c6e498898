"""`spell-billing mail-preview`: the mail that a user would get."""

import click

from spell_billing.cli.common import clear_errors, fail, month_option
from spell_billing.core.month import Month


@click.command("mail-preview")
@month_option(required=True)
@click.option("--user", "user_id", metavar="ID", required=True, help="The platform's user.")
@click.option(
    "--template",
    type=click.Choice(["finalized", "payment_failed", "credited"]),
    default="finalized",
    show_default=True,
    help="The kind of mail.",
)
@click.option("--html", is_flag=True, help="Write the HTML part instead of subject and text.")
def command(month: Month, user_id: str, template: str, *, html: bool) -> None:
    """Show the mail that a user would get about an invoice as it stands. Nothing is sent or stored."""
    from spell_billing.ledger.credit_notes import read_credit_notes  # noqa: PLC0415
    from spell_billing.ledger.ledger import Ledger  # noqa: PLC0415 - heavy: SQLAlchemy
    from spell_billing.ledger.mails import GivenBack, Template  # noqa: PLC0415
    from spell_billing.ledger.payments import read_payment  # noqa: PLC0415
    from spell_billing.mail.letters import Letters  # noqa: PLC0415
    from spell_billing.mail.settings import MailSettings  # noqa: PLC0415
    from spell_billing.settings.billing import Settings  # noqa: PLC0415

    with clear_errors():
        settings = MailSettings.from_environment()
        letters = Letters(settings.templates, settings.sender)
        with Ledger(Settings.from_environment().database) as ledger:
            bills = ledger.bills_of_user(month, user_id)
            if not bills or bills[-1].total_cents <= 0:
                fail(f"{user_id} has no bill of {month} that charges anything.")
            invoice_id = bills[-1].stripe_invoice_id
            with ledger.reading() as connection:
                payment = read_payment(connection, invoice_id) if invoice_id else None
                notes = read_credit_notes(connection, [bills[-1].id])
            if template == Template.CREDITED and not notes:
                fail(
                    f"Nothing of {user_id}'s invoice for {month} was given back with `spell-billing credit`."
                )
        given_back = GivenBack.by(notes[-1]) if notes else None
        letter = letters.write(Template(template), bills[-1], payment, given_back)
    if html:
        click.echo(letter.html, nl=False)
    else:
        click.echo(f"Subject: {letter.subject}\n\n{letter.text}", nl=False)
