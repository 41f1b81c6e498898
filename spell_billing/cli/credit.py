"""`spell-billing credit`: give back some or all of one user's invoice."""

import asyncio

import click

from spell_billing.cli.common import clear_errors, month_option, person
from spell_billing.core.money import format_money
from spell_billing.core.month import Month


@click.command("credit")
@month_option(required=True)
@click.option("--user", "user_id", metavar="ID", required=True, help="The platform's user.")
@click.option("--cents", type=click.IntRange(min=1), metavar="N", help="How much, in minor units.")
@click.option("--all", "everything", is_flag=True, help="All of the invoice that is not credited yet.")
@click.option(
    "--reason",
    metavar="TEXT",
    required=True,
    help="Why: for the audit trail, the credit note and the mail to the user.",
)
@click.option(
    "--to",
    type=click.Choice(["card", "balance"]),
    default="card",
    show_default=True,
    help="Where the money of a paid invoice goes: back to the card, or to the customer's next invoices.",
)
def command(month: Month, user_id: str, cents: int | None, reason: str, to: str, *, everything: bool) -> None:
    """Give back some or all of one user's invoice, by a credit note at Stripe, exactly once.

    Before the payment it lowers what is due; after it, it refunds the card or credits the customer's balance.
    Safe to repeat: the same amount with the same reason is one credit. The user is not billed again for it.
    """
    from spell_billing.invoicing.credit import credit_bill  # noqa: PLC0415 - heavy: the SDK
    from spell_billing.ledger.credit_notes import CreditKind, CreditNote  # noqa: PLC0415
    from spell_billing.ledger.ledger import Ledger  # noqa: PLC0415
    from spell_billing.ledger.rows import Actor  # noqa: PLC0415
    from spell_billing.orchestration.resources import StripeResource  # noqa: PLC0415
    from spell_billing.payments.money_back import read_again  # noqa: PLC0415
    from spell_billing.settings.billing import Settings  # noqa: PLC0415

    if (cents is None) is not everything:
        raise click.UsageError("Say how much: --cents N, or --all.")
    if not reason.strip():
        raise click.BadParameter("say why", param_hint="--reason")
    with clear_errors():
        stripe = StripeResource()
        stripe.check()
        with Ledger(Settings.from_environment().database) as ledger:

            async def run() -> CreditNote:
                async with stripe.connect(ledger) as gateway:
                    with ledger.session(month, Actor(person()), on_wait=click.echo) as session:
                        note = await credit_bill(
                            session, gateway, user_id, cents, reason.strip(), to_balance=to == "balance"
                        )
                    await read_again(ledger, gateway, note.stripe_invoice_id)
                    return note

            note = asyncio.run(run())
            currency = ledger.bills_of_user(month, user_id)[-1].currency
    what = {
        CreditKind.REDUCE: "lowers what is due",
        CreditKind.REFUND: "is refunded to the card",
        CreditKind.BALANCE: "is credited to the customer's balance",
    }[note.kind]
    click.echo(
        f"Credit note {note.credit_note_id} of invoice {note.stripe_invoice_id} ({user_id}, {month}): "
        f"{format_money(note.cents, currency, grouping=True)} {what}."
    )
