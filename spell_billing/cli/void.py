"""`spell-billing void`: void one user's invoice."""

import asyncio

import click

from spell_billing.cli.common import clear_errors, month_option, person
from spell_billing.core.month import Month


@click.command("void")
@month_option(required=True)
@click.option("--user", "user_id", metavar="ID", required=True, help="The platform's user.")
@click.option("--reason", metavar="TEXT", required=True, help="Why, in words, for the audit trail.")
@click.option("--for-good", is_flag=True, help="Do not bill the user again for this month.")
def command(month: Month, user_id: str, reason: str, *, for_good: bool) -> None:
    """Void one user's invoice at Stripe and in the ledger.

    The next `bill` of the month bills the user again, as a new generation, unless --for-good. Refused where
    that would leave two invoices, or where the invoice is paid. Safe to repeat.
    """
    from spell_billing.invoicing.settle import void_bill  # noqa: PLC0415 - heavy: the SDK
    from spell_billing.ledger.ledger import Ledger  # noqa: PLC0415
    from spell_billing.ledger.rows import Actor, Bill  # noqa: PLC0415
    from spell_billing.orchestration.resources import StripeResource  # noqa: PLC0415
    from spell_billing.settings.billing import Settings  # noqa: PLC0415

    if not reason.strip():
        raise click.BadParameter("say why", param_hint="--reason")
    with clear_errors():
        stripe = StripeResource()
        stripe.check()
        with (
            Ledger(Settings.from_environment().database) as ledger,
            ledger.session(month, Actor(person()), on_wait=click.echo) as session,
        ):

            async def run() -> Bill:
                async with stripe.connect(ledger) as gateway:
                    return await void_bill(session, gateway, user_id, reason, for_good=for_good)

            bill = asyncio.run(run())
    click.echo(f"Invoice {bill.stripe_invoice_id} of user {user_id} for {month} is void.")
    if not for_good:
        click.echo(f"To bill the user again: spell-billing bill --month {month}")
