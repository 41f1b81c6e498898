"""`spell-billing settle`: close what a person dealt with."""

import asyncio
from functools import partial

import click

from spell_billing.cli.common import clear_errors, month_option, person
from spell_billing.core.month import Month


@click.command("settle")
@month_option(required=True)
@click.option("--user", "user_id", metavar="ID", required=True, help="The platform's user.")
@click.option(
    "--as",
    "settled_as",
    type=click.Choice(["billed-by-hand", "written-off"]),
    help="Billed by hand: the user was charged elsewhere. Written off: nothing is charged.",
)
@click.option(
    "--credit",
    "currency",
    metavar="CURRENCY",
    help="Settle the user's credit in this currency instead, as when the account changed to another one.",
)
@click.option("--reason", metavar="TEXT", required=True, help="Why, in words, for the audit trail.")
def command(month: Month, user_id: str, settled_as: str | None, currency: str | None, reason: str) -> None:
    """Close one user's bill that has no invoice: failed, held, parked, or voided to be billed again.

    Refused while an invoice of it stands at Stripe. Safe to repeat. With --credit, record that a credit was
    given back by hand, so that it no longer holds the user's bills.
    """
    if not reason.strip():
        raise click.BadParameter("say why", param_hint="--reason")
    if (settled_as is None) == (currency is None):
        raise click.UsageError("Give either --as or --credit.")
    with clear_errors():
        if currency is not None:
            _settle_credit(month, user_id, currency.lower(), reason)
        else:
            _settle_bill(month, user_id, str(settled_as), reason)


def _settle_credit(month: Month, user_id: str, currency: str, reason: str) -> None:
    from spell_billing.core.money import format_money  # noqa: PLC0415
    from spell_billing.ledger.history import settle_credit  # noqa: PLC0415 - heavy: SQLAlchemy
    from spell_billing.ledger.ledger import Ledger  # noqa: PLC0415
    from spell_billing.ledger.rows import Actor  # noqa: PLC0415
    from spell_billing.settings.billing import Settings  # noqa: PLC0415

    actor = Actor(person())
    with (
        Ledger(Settings.from_environment().database) as ledger,
        ledger.exclusive(on_wait=click.echo),
        ledger.writing() as connection,
    ):
        credit = settle_credit(connection, month, user_id, currency, reason=reason, actor=actor)
    money = format_money(credit.amount_cents, credit.currency, grouping=True)
    click.echo(f"The credit of {money} of user {user_id} is settled.")
    click.echo(f"Next, for bills it held: spell-billing bill --month {month}")


def _settle_bill(month: Month, user_id: str, settled_as: str, reason: str) -> None:
    from spell_billing.invoicing.settle import SettledAs, settle_bill  # noqa: PLC0415 - heavy: the SDK
    from spell_billing.ledger.ledger import Ledger  # noqa: PLC0415
    from spell_billing.ledger.rows import Actor  # noqa: PLC0415
    from spell_billing.orchestration.resources import StripeResource  # noqa: PLC0415
    from spell_billing.settings.billing import Settings  # noqa: PLC0415

    with (
        Ledger(Settings.from_environment().database) as ledger,
        ledger.session(month, Actor(person()), on_wait=click.echo) as session,
    ):
        connect = partial(StripeResource().connect, ledger)
        asyncio.run(settle_bill(session, connect, user_id, SettledAs(settled_as), reason))
    click.echo(f"The bill of user {user_id} for {month} is settled: {settled_as.replace('-', ' ')}.")
