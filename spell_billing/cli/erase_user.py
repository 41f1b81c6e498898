"""`spell-billing erase-user`: replace a user's id by a pseudonym everywhere."""

import asyncio

import click

from spell_billing.cli.common import clear_errors, person

_WAIT_SECONDS = 10.0
"""A person waits no longer for a freeze that is under way."""


@click.command("erase-user")
@click.argument("user_id")
@click.option(
    "--as",
    "known_as",
    help="The pseudonym the user got before, when an older ledger was restored.",
)
def command(user_id: str, known_as: str | None) -> None:
    """Replace the id of user USER_ID by a random pseudonym in ledger, mail, frozen files and at Stripe.

    Every amount stays. Refused while something of the user is open, or the platform still has the user. If it
    is interrupted, run it again: until then nothing is billed.
    """
    from datetime import UTC, datetime  # noqa: PLC0415

    from spell_billing.invoicing.erase_user import Erasing, erasing  # noqa: PLC0415 - heavy: the SDK
    from spell_billing.ledger.ledger import Ledger  # noqa: PLC0415
    from spell_billing.ledger.rows import Actor  # noqa: PLC0415
    from spell_billing.orchestration.resources import StripeResource  # noqa: PLC0415
    from spell_billing.settings.billing import Settings  # noqa: PLC0415
    from spell_billing.usage.source import is_at_platform, open_usage_source  # noqa: PLC0415
    from spell_billing.usage.store import UsageStore  # noqa: PLC0415

    stripe = StripeResource()

    async def at_stripe(ledger: Ledger, work: Erasing) -> None:
        async with stripe.connect(ledger) as gateway:
            await work.at_stripe(gateway)

    with clear_errors():
        settings = Settings.from_environment()
        stripe.check()
        source = open_usage_source(settings.usage_database)
        now = datetime.now(UTC)
        with (
            Ledger(settings.database) as ledger,
            erasing(
                ledger,
                UsageStore(settings.usage_store, lock_timeout_seconds=_WAIT_SECONDS),
                user_id,
                at_platform=lambda since: is_at_platform(source, user_id, since=since, now=now),
                now=now,
                known_as=known_as,
            ) as work,
        ):
            if work.is_at_stripe:
                asyncio.run(at_stripe(ledger, work))
            work.in_frozen_usage(now)
            work.in_ledger(Actor(person()), now)
    click.echo(
        f"User {user_id} is {work.erasure.pseudonym} from now on: in the ledger, on {work.invoices} invoices "
        f"at Stripe and in {work.versions} frozen versions. No amount has changed."
    )
