"""`spell-billing explain`: the whole story of one user's bill."""

from typing import Any

import click

from spell_billing.cli.common import clear_errors, json_option, month_option, write_json
from spell_billing.core.month import Month


@click.command("explain")
@month_option(required=True)
@click.option("--user", "user_id", metavar="ID", required=True, help="The platform's user.")
@json_option
def command(month: Month, user_id: str, *, as_json: bool) -> None:
    """Tell the whole story of one user's bill, from the frozen rows to the invoice or the reason for none."""
    from spell_billing.ledger.ledger import Ledger  # noqa: PLC0415
    from spell_billing.reporting.explain import explain  # noqa: PLC0415 - heavy: SQLAlchemy, DuckDB
    from spell_billing.settings.billing import Settings  # noqa: PLC0415
    from spell_billing.usage.store import UsageStore  # noqa: PLC0415

    with clear_errors():
        settings = Settings.from_environment()
        with Ledger(settings.database) as ledger:
            story = explain(ledger, UsageStore(settings.usage_store), month, user_id)
    if as_json:
        write_json(story)
    else:
        _tell(story)


def _tell(story: dict[str, Any]) -> None:
    click.echo(story["answer"])
    usage = story["usage"]
    if usage["version"] is None:
        return
    click.echo(f"\nFrozen usage ({usage['version']}): {usage['calls']:,} calls, {usage['usage_cents']} cents")
    for day in usage["days"]:
        click.echo(f"  {day['day']}  {day['calls']:>8,} calls  {day['usage_cents']} cents")
    for bill in story["bills"]:
        click.echo(
            f"\nBill, generation {bill['generation']}: {bill['state']}, {bill['total_cents']} cents "
            f"{bill['currency']}, customer {bill['stripe_customer_id']}, invoice {bill['stripe_invoice_id']}"
        )
        for line in bill["lines"]:
            click.echo(f"  {line['amount_cents']:>10} cents  {line['description']}")
        _tell_beside(bill)
        if bill["payment"]:
            _tell_payment(bill["payment"])
        if bill["why"]:
            click.echo(f"  {bill['reason']}: {bill['why']}")
    click.echo("\nHistory")
    for entry in story["history"]:
        states = f"{entry.get('from_state', '-')} -> {entry.get('to_state', '-')}"
        rest = ("actor", "run_id", "stripe_invoice_id", "stripe_request_id", "detail")
        words = ", ".join(str(entry[name]) for name in rest if name in entry)
        click.echo(f"  {entry['at']}  {entry['action']}: {states} ({words})")


def _tell_beside(bill: dict[str, Any]) -> None:
    if bill["discount_cents"]:
        click.echo(f"  {-bill['discount_cents']:>10} cents  discount at Stripe, off the total")
    if bill["tax_cents"] is not None:
        click.echo(f"  {bill['tax_cents']:>10} cents  tax, on top of the total")
    if bill["without_tax"]:
        click.echo(f"  Without the tax that was asked for: {bill['without_tax']}")


def _tell_payment(payment: dict[str, Any]) -> None:
    click.echo(f"  Payment: {payment['status']}, {payment['in_words']} ({payment['as_of']})")
    if payment["disputes"]:
        click.echo(f"  Dispute: {', '.join(payment['disputes'])}")
    if payment["failed_attempts"]:
        again = payment["next_attempt_at"] or "none planned"
        why = f" {payment['why']}" if payment["why"] else ""
        click.echo(f"  Failed attempts: {payment['failed_attempts']}, next: {again}.{why}")
    for step in payment["dunning"]:
        click.echo(
            f"  Asked to collect again after {step['day']} days, {step['asked_at']}: {step['outcome']}"
        )
