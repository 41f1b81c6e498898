"""`spell-billing alert-test`: send a test alert on every channel."""

import sys

import click

from spell_billing.cli.common import EXIT_COULD_NOT_RUN, clear_errors, person
from spell_billing.core.errors import SettingsError


@click.command("alert-test")
def command() -> None:
    """Send a test alert on every channel of ALERT_URLS, and say which took it.

    Exits with 1 when one did not, or when there is none.
    """
    from spell_billing.alerts.channels import open_channels  # noqa: PLC0415 - heavy: Apprise
    from spell_billing.settings.notifications import NotificationSettings  # noqa: PLC0415

    with clear_errors():
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
                f"Sent with spell-billing alert-test by {person()}. Nothing is to be done.",
            )
            problems += problem is not None
            click.echo(f"{channel.name}: {problem or 'sent'}")
        if problems:
            sys.exit(EXIT_COULD_NOT_RUN)
