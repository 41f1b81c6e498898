"""What operators and users are sent: `alert-test`, `mail-preview`."""

import sys
from typing import TYPE_CHECKING

import click

from spell_billing.cli.common import (
    EXIT_COULD_NOT_RUN,
    fail,
    month_option,
    open_ledger,
    person,
    say,
    user_option,
)
from spell_billing.core.errors import SettingsError
from spell_billing.core.month import Month

if TYPE_CHECKING:
    from spell_billing.mail.letters import Letter


@click.command("alert-test")
def alert_test() -> None:
    """Send a test alert on every channel of ALERT_URLS, and say which took it.

    Exits with 1 when one did not, or when there is none.
    """
    from spell_billing.alerts.channels import open_channels  # noqa: PLC0415 - heavy: Apprise
    from spell_billing.settings.notifications import NotificationSettings  # noqa: PLC0415

    urls = NotificationSettings.from_environment().alert_urls
    if not urls:
        raise SettingsError(
            "ALERT_URLS is not set: alerts are only written to the log.",
            remedy="Set it to one or more Apprise URLs, as mailtos://user:password@example.com.",
        )
    problems = 0
    for channel in open_channels(urls):
        problem = channel.deliver(
            "Test alert of Spell Platform billing",
            f"Sent with spell-billing alert-test by {person()}. No action is needed.",
        )
        problems += problem is not None
        say(f"{channel.name}: {problem or 'sent'}")
    if problems:
        sys.exit(EXIT_COULD_NOT_RUN)


@click.command("mail-preview")
@month_option(required=True)
@user_option
@click.option(
    "--template",
    type=click.Choice(["finalized", "payment_failed", "credited", "threshold_reached"]),
    default="finalized",
    show_default=True,
    help="The kind of mail.",
)
@click.option("--html", is_flag=True, help="Write the HTML part instead of subject and text.")
def mail_preview(month: Month, user_id: str, template: str, *, html: bool) -> None:
    """Show the mail that a user would get about an invoice as it stands. Nothing is sent or stored.

    With threshold_reached, about the threshold of the spend limit of which the user was told last.
    """
    from spell_billing.ledger.credit_notes import read_credit_notes  # noqa: PLC0415 - heavy: SQLAlchemy
    from spell_billing.ledger.mails import GivenBack, Template  # noqa: PLC0415
    from spell_billing.ledger.payments import read_payment  # noqa: PLC0415
    from spell_billing.ledger.thresholds import THRESHOLD, reached_by_user  # noqa: PLC0415
    from spell_billing.mail.letters import Letters  # noqa: PLC0415
    from spell_billing.mail.settings import MailSettings  # noqa: PLC0415

    settings = MailSettings.from_environment()
    letters = Letters(settings.templates, settings.sender)
    if template == THRESHOLD:
        with open_ledger() as ledger, ledger.reading() as connection:
            reached = reached_by_user(connection, month).get(user_id)
        if reached is None:
            fail(f"{user_id} reached no threshold of a spend limit in {month}.")
        _show(letters.write_reached(reached, month), html=html)
        return
    with open_ledger() as ledger:
        bills = ledger.bills_of_user(month, user_id)
        if not bills or bills[-1].total_cents <= 0:
            fail(f"{user_id} has no bill of {month} that charges anything.")
        bill = bills[-1]
        with ledger.reading() as connection:
            payment = read_payment(connection, bill.stripe_invoice_id) if bill.stripe_invoice_id else None
            notes = read_credit_notes(connection, [bill.id])
    if template == Template.CREDITED and not notes:
        fail(f"Nothing of {user_id}'s invoice for {month} was given back with `spell-billing credit`.")
    given_back = GivenBack.by(notes[-1]) if notes else None
    _show(letters.write(Template(template), bill, payment, given_back), html=html)


def _show(letter: "Letter", *, html: bool) -> None:
    click.echo(letter.html if html else f"Subject: {letter.subject}\n\n{letter.text}", nl=False)
