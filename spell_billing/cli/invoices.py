"""`spell-billing invoices`: every user's bill of a month."""

import click
import orjson

from spell_billing.cli.common import clear_errors, console, exact_number, json_option, month_option
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
        if as_json:
            rows = (orjson.dumps(bill_as_json(row), default=exact_number) for row in ledger.listing(month))
            click.echo(b"[" + b",\n".join(rows) + b"]")
            return
        table = Table("user", "invoice", "state", box=None, pad_edge=False)
        table.add_column("calls", justify="right")
        table.add_column("total", justify="right")
        table.add_column("why")
        for bill in ledger.listing(month):
            table.add_row(
                bill["user_id"],
                bill["stripe_invoice_id"] or "-",
                bill["state"],
                f"{bill['calls']:,}",
                format_money(bill["total_cents"], bill["currency"], grouping=True),
                bill["reason"] or "",
            )
        console().print(table)
