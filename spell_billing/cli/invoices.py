"""`spell-billing invoices`: every user's bill of a month."""

import click

from spell_billing.cli.common import clear_errors, console, json_option, month_option, write_json
from spell_billing.core.month import Month


@click.command("invoices")
@month_option(required=True)
@json_option
def command(month: Month, *, as_json: bool) -> None:
    """List every user's bill of a month, with its state and the reason where there is no invoice."""
    from rich.table import Table  # noqa: PLC0415

    from spell_billing.core.money import format_money  # noqa: PLC0415
    from spell_billing.ledger.ledger import Ledger  # noqa: PLC0415 - heavy: SQLAlchemy
    from spell_billing.settings import Settings  # noqa: PLC0415
    from spell_billing.status import bill_as_json  # noqa: PLC0415

    with clear_errors(), Ledger(Settings.from_environment().database) as ledger:
        bills = list(ledger.bills(month))
        if as_json:
            write_json([bill_as_json(bill) for bill in bills])
            return
        table = Table("user", "invoice", "state", box=None, pad_edge=False)
        table.add_column("calls", justify="right")
        table.add_column("total", justify="right")
        table.add_column("why")
        for bill in bills:
            table.add_row(
                bill.user_id,
                bill.stripe_invoice_id or "-",
                bill.state.value,
                f"{bill.calls:,}",
                format_money(bill.total_cents, bill.currency, grouping=True),
                bill.reason.value if bill.reason else "",
            )
        console().print(table)
