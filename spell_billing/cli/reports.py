"""What the ledger says about a month's bills: `invoices`, `explain`, `reconcile`."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click
import orjson

from spell_billing.cli.common import (
    EXIT_USERS_LEFT,
    actor,
    json_option,
    month_option,
    open_ledger,
    say,
    stripe_account,
    user_option,
    write_json,
)
from spell_billing.core.items import item_name
from spell_billing.core.money import exact_number, format_amounts, format_money, plain
from spell_billing.core.month import Month
from spell_billing.core.shown import one_line

if TYPE_CHECKING:
    from spell_billing.invoicing.findings import Reconciliation
    from spell_billing.usage.contract import UsageSource

# Not all that is listed: amounts and times that nobody sees here take half of the time.
_SHOWN = ("user_id", "stripe_invoice_id", "state", "calls", "total_cents", "currency", "reason")
_LINE = "{:<36}  {:<28}  {:<14}  {:>9}  {:>14}  {}"


@click.command("invoices")
@month_option(required=True)
@json_option
def invoices(month: Month, *, as_json: bool) -> None:
    """List every user's bill of a month, with its state and the reason where there is no invoice."""
    from spell_billing.reporting.status import bill_as_json  # noqa: PLC0415 - heavy: SQLAlchemy

    with open_ledger() as ledger:
        if as_json:
            rows = (orjson.dumps(bill_as_json(row), default=exact_number) for row in ledger.listing(month))
            click.echo(b"[" + b",\n".join(rows) + b"]")
            return
        # Plain lines, not a rich table: that one measures every cell before it writes the first.
        lines = map(_line, ledger.listing(month, _SHOWN))
        say(_LINE.format("user", "invoice", "state", "calls", "total", "why"))
        # Not echoed: each echo is a write of its own, which takes longer than reading the ledger.
        sys.stdout.writelines(lines)


def _line(bill: Mapping[str, Any]) -> str:
    row = (
        one_line(bill["user_id"]),
        bill["stripe_invoice_id"] or "-",
        bill["state"],
        f"{bill['calls']:,}",
        format_money(bill["total_cents"], bill["currency"], grouping=True),
    )
    return _LINE.format(*row, bill["reason"] or "").rstrip() + "\n"


@click.command("explain")
@month_option(required=True)
@user_option
@json_option
def explain(month: Month, user_id: str, *, as_json: bool) -> None:
    """Tell the whole story of one user's bill, from the frozen rows to the invoice or the reason for none."""
    from spell_billing.reporting import explain as reporting  # noqa: PLC0415 - heavy: SQLAlchemy, DuckDB
    from spell_billing.settings.billing import Settings  # noqa: PLC0415
    from spell_billing.usage.store import open_usage_store  # noqa: PLC0415

    settings = Settings.from_environment()
    store = open_usage_store(settings.usage_store)

    def open_source() -> "UsageSource":
        from spell_billing.usage.contract import SourceRules  # noqa: PLC0415 - only of months that were summed
        from spell_billing.usage.source import open_usage_source  # noqa: PLC0415

        return open_usage_source(settings.usage_database, SourceRules(items_by=settings.line_items_by))

    with open_ledger() as ledger:
        story = reporting.explain(ledger, store, month, user_id, open_source)
    if as_json:
        write_json(story)
    else:
        _write_story(story)
    if not story["known"]:
        sys.exit(1)


def _write_story(story: dict[str, Any]) -> None:
    say(story["answer"])
    for bill in story["bills"]:
        _write_bill(bill)
    usage = story["usage"]
    if usage["version"] is None:
        return
    click.echo()
    say(f"Frozen usage ({usage['version']}): {usage['calls']:,} calls, {usage['usage_cents']} cents")
    for day in usage["days"]:
        say(f"  {day['day']}  {day['calls']:>8,} calls  {day['usage_cents']} cents")
    if "engine" in usage:
        say(f"  {_rows_in(usage['engine'])}")
    for item in usage.get("items", ()):
        named = f"  {item_name(item['item'])}  {item['calls']:,} calls  {item['usage_cents']} cents"
        say(named + _by_card(item))
    if story["history"]:
        click.echo()
        say("History")
    for entry in story["history"]:
        states = f"{entry.get('from_state', '-')} -> {entry.get('to_state', '-')}"
        rest = ("actor", "run_id", "stripe_invoice_id", "stripe_request_id", "detail")
        words = ", ".join(str(entry[name]) for name in rest if name in entry)
        say(f"  {entry['at']}  {entry['action']}: {states} ({words})")


def _rows_in(engine: dict[str, Any]) -> str:
    """Return in words what is known of the rows whose sums were frozen."""
    name = engine["name"]
    if engine["problem"]:
        return f"The rows are in {name}, and their days are not known: {engine['problem']}"
    now = f"The days are those of the rows in {name} now"
    if engine["as_frozen"] is None:
        return f"{now}; whether these are the rows that were frozen, another engine or type cannot tell."
    return f"{now}, {'' if engine['as_frozen'] else 'not '}the rows that were frozen."


def _by_card(item: dict[str, Any]) -> str:
    """Return in words by which rate card an item is priced; nothing where its cost is the stored one."""
    card = item.get("card")
    if card is None:
        return ""
    ends = (f"up to {tier['up_to']}" if tier["up_to"] else "each" for tier in card["tiers"])
    tiers = ", ".join(
        f"{tier['unit_price_cents']} cents {end}" for tier, end in zip(card["tiers"], ends, strict=True)
    )
    of = f" of {card['package_size']}" if card["package_size"] else ""
    units = f"quantity {item['quantity']}" if card["unit"] == "quantity" else "calls"
    return (
        f", priced by a {card['model']} card{of} for {units}: {tiers} (stored: {item['stored_cents']} cents)"
    )


def _write_bill(bill: dict[str, Any]) -> None:
    click.echo()
    say(
        f"Bill, generation {bill['generation']}: {bill['state']}, {bill['total_cents']} cents "
        f"{bill['currency']}, {bill['stripe_customer_id'] or 'no customer'}, "
        f"{bill['stripe_invoice_id'] or 'no invoice'}"
    )
    for line in bill["lines"]:
        say(f"  {line['amount_cents']:>10} cents  {line['description']}")
    if bill["discount_cents"]:
        say(f"  {-bill['discount_cents']:>10} cents  discount at Stripe, off the total")
    if bill["tax_cents"] is not None:
        say(f"  {bill['tax_cents']:>10} cents  tax, on top of the total")
    if bill["without_tax"]:
        say(f"  Without the tax that was asked for: {bill['without_tax']}")
    if bill["payment"]:
        _write_payment(bill["payment"])
    if bill["why"]:
        say(f"  {bill['reason']}: {bill['why']}")


def _write_payment(payment: dict[str, Any]) -> None:
    say(f"  Payment: {payment['status']}, {payment['in_words']} ({payment['as_of']})")
    if payment["disputes"]:
        say(f"  Dispute: {', '.join(payment['disputes'])}")
    if payment["failed_attempts"]:
        again = payment["next_attempt_at"] or "none planned"
        why = f" {payment['why']}" if payment["why"] else ""
        say(f"  Failed attempts: {payment['failed_attempts']}, next: {again}.{why}")
    for step in payment["dunning"]:
        say(f"  Asked to collect again after {step['day']} days, {step['asked_at']}: {step['outcome']}")


@click.command("reconcile")
@month_option(required=True)
@json_option
def reconcile(month: Month, *, as_json: bool) -> None:
    """Compare frozen usage, ledger, Stripe and the money that was kept, and name every difference.

    Ends with 3 when there are any. Only reads at Stripe.
    """
    from spell_billing.invoicing.reconcile_month import reconcile_month  # noqa: PLC0415 - heavy: the SDK, DuckDB
    from spell_billing.settings.billing import Settings  # noqa: PLC0415
    from spell_billing.usage.store import open_usage_store  # noqa: PLC0415

    stripe = stripe_account()
    store = open_usage_store(Settings.from_environment().usage_store)
    with open_ledger() as ledger:
        result = stripe.work(ledger, lambda gateway: reconcile_month(ledger, store, gateway, month, actor()))
    if as_json:
        write_json(result.as_json())
    else:
        _write_reconciliation(result)
    if result.findings:
        sys.exit(EXIT_USERS_LEFT)


def _write_reconciliation(result: "Reconciliation") -> None:
    unit = "minor units" if len(result.ledger_by_currency) > 1 else "cents"
    say(
        f"Frozen  {result.frozen_users:,} users, {result.frozen_calls:,} calls, "
        f"{plain(result.frozen_usage_cents)} {unit} of usage"
    )
    say(f"Ledger  {result.ledger_invoices:,} invoices, {format_amounts(result.ledger_by_currency)}")
    say(f"Stripe  {result.stripe_invoices:,} invoices, {format_amounts(result.stripe_by_currency)}")
    for kept in result.money:
        of_invoices = (kept.paid_cents, kept.refunded_cents, kept.disputed_cents, kept.kept_cents)
        paid, refunded, disputed, left, due = (
            format_money(cents, kept.currency, grouping=True) for cents in (*of_invoices, kept.due_cents)
        )
        say(f"Money   {left} kept: {paid} received, {refunded} refunded, {disputed} disputed; {due} due")
    for each in result.findings:
        invoice = f", {each.stripe_invoice_id}" if each.stripe_invoice_id else ""
        say(f"{each.user_id}{invoice}: {each.kind}; expected {each.expected}, found {each.found}")
        say(f"  {each.remedy}")
    number = len(result.findings)
    say(f"{number} finding{'s' * (number > 1)}." if number else "All four agree to the cent.")
