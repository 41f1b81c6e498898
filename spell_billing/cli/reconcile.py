"""`spell-billing reconcile`: frozen usage, ledger and Stripe compared to the cent."""

import asyncio
import sys

import click

from spell_billing.cli.common import (
    EXIT_USERS_LEFT,
    clear_errors,
    json_option,
    month_option,
    person,
    write_json,
)
from spell_billing.core.money import format_amounts, format_money, plain
from spell_billing.core.month import Month


@click.command("reconcile")
@month_option(required=True)
@json_option
def command(month: Month, *, as_json: bool) -> None:
    """Compare frozen usage, ledger, Stripe and the money that was kept, and name every difference.

    Ends with 3 when there are any. Only reads at Stripe.
    """
    from spell_billing.invoicing.findings import Reconciliation  # noqa: PLC0415 - heavy: the SDK, DuckDB
    from spell_billing.invoicing.reconcile_month import reconcile_month  # noqa: PLC0415
    from spell_billing.ledger.ledger import Ledger  # noqa: PLC0415
    from spell_billing.ledger.rows import Actor  # noqa: PLC0415
    from spell_billing.orchestration.resources import StripeResource  # noqa: PLC0415
    from spell_billing.settings.billing import Settings  # noqa: PLC0415
    from spell_billing.usage.store import UsageStore  # noqa: PLC0415

    with clear_errors():
        settings = Settings.from_environment()
        stripe = StripeResource()
        stripe.check()
        with Ledger(settings.database) as ledger:

            async def ask() -> Reconciliation:
                async with stripe.connect(ledger) as gateway:
                    store = UsageStore(settings.usage_store)
                    return await reconcile_month(ledger, store, gateway, month, Actor(person()))

            result = asyncio.run(ask())
    if as_json:
        write_json(result.as_json())
    else:
        several = len(result.ledger_by_currency) > 1
        click.echo(
            f"Frozen  {result.frozen_users:,} users, {result.frozen_calls:,} calls, "
            f"{plain(result.frozen_usage_cents)} {'minor units' if several else 'cents'} of usage"
        )
        billed, at_stripe = map(format_amounts, (result.ledger_by_currency, result.stripe_by_currency))
        click.echo(f"Ledger  {result.ledger_invoices:,} invoices, {billed}")
        click.echo(f"Stripe  {result.stripe_invoices:,} invoices, {at_stripe}")
        for kept in result.money:
            paid, refunded, disputed, left, due = (
                format_money(cents, kept.currency, grouping=True)
                for cents in (
                    *(kept.paid_cents, kept.refunded_cents, kept.disputed_cents, kept.kept_cents),
                    kept.due_cents,
                )
            )
            click.echo(
                f"Money   {left} kept: {paid} received, {refunded} refunded, {disputed} disputed; {due} due"
            )
        for each in result.findings:
            invoice = f", {each.stripe_invoice_id}" if each.stripe_invoice_id else ""
            click.echo(f"{each.user_id}{invoice}: {each.kind}; expected {each.expected}, found {each.found}")
            click.echo(f"  {each.remedy}")
        click.echo(f"{len(result.findings)} findings." if result.findings else "All four agree to the cent.")
    if result.findings:
        sys.exit(EXIT_USERS_LEFT)
