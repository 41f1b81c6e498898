"""`spell-billing invoices`: every user's bill of a month."""

from collections.abc import Mapping
from itertools import islice
from typing import Any

import click
import orjson

from spell_billing.cli.common import clear_errors, json_option, month_option
from spell_billing.core.money import exact_number, format_money
from spell_billing.core.month import Month

_LINES_AT_ONCE = 500
# Not all that is listed: amounts and times that nobody sees here take half of the time.
_SHOWN = ("user_id", "stripe_invoice_id", "state", "calls", "total_cents", "currency", "reason")
_LINE = "{:<36}  {:<28}  {:<14}  {:>9}  {:>14}  {}"


@click.command("invoices")
@month_option(required=True)
@json_option
def command(month: Month, *, as_json: bool) -> None:
    """List every user's bill of a month, with its state and the reason where there is no invoice."""
    from spell_billing.ledger.ledger import Ledger  # noqa: PLC0415 - heavy: SQLAlchemy
    from spell_billing.reporting.status import bill_as_json  # noqa: PLC0415
    from spell_billing.settings.billing import Settings  # noqa: PLC0415

    with clear_errors(), Ledger(Settings.from_environment().database) as ledger:
        if as_json:
            rows = (orjson.dumps(bill_as_json(row), default=exact_number) for row in ledger.listing(month))
            click.echo(b"[" + b",\n".join(rows) + b"]")
            return
        # Plain lines, not a rich table: that one measures every cell before it writes the first.
        lines = map(_line, ledger.listing(month, _SHOWN))
        click.echo(_LINE.format("user", "invoice", "state", "calls", "total", "why"))
        # Each echo is a write of its own: a line at a time takes longer than reading the ledger.
        while block := list(islice(lines, _LINES_AT_ONCE)):
            click.echo("\n".join(block))


def _line(bill: Mapping[str, Any]) -> str:
    row = (
        bill["user_id"],
        bill["stripe_invoice_id"] or "-",
        bill["state"],
        f"{bill['calls']:,}",
        format_money(bill["total_cents"], bill["currency"], grouping=True),
    )
    return _LINE.format(*row, bill["reason"] or "").rstrip()
