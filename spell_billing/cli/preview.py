"""`spell-billing preview`: what billing a month would send."""

from datetime import UTC, datetime
from pathlib import Path

import click

from spell_billing.cli.common import clear_errors, console, json_option, month_option, write_json
from spell_billing.core.money import format_money
from spell_billing.core.month import Month

_SHOWN_USERS = 50


@click.command("preview")
@month_option(required=True)
@click.option(
    "--all", "all_users", is_flag=True, help=f"Show every user, not only the largest {_SHOWN_USERS}."
)
@click.option("--csv", type=click.Path(dir_okay=False, path_type=Path), help="Write every user to this file.")
@json_option
def command(month: Month, csv: Path | None, *, all_users: bool, as_json: bool) -> None:
    """Show every user's draft of a month, and the totals. Nothing is sent to Stripe, nothing is stored."""
    from rich.table import Table  # noqa: PLC0415

    from spell_billing.ledger.ledger import Ledger  # noqa: PLC0415 - heavy: SQLAlchemy
    from spell_billing.preview import drafts_frame, preview_drafts, spreadsheet_frame  # noqa: PLC0415 - heavy: pandas
    from spell_billing.settings import Settings  # noqa: PLC0415
    from spell_billing.usage.source import open_usage_source  # noqa: PLC0415
    from spell_billing.usage.store import UsageStore  # noqa: PLC0415

    with clear_errors():
        settings = Settings.from_environment()
        with Ledger(settings.database) as ledger:
            source = open_usage_source(settings.usage_database)
            frame = drafts_frame(preview_drafts(month, ledger, source, UsageStore(settings.usage_store)))
    if csv is not None:
        # With a byte order mark, for Excel.
        spreadsheet_frame(frame).to_csv(csv, index=False, encoding="utf-8-sig")
    if as_json:
        write_json(frame.to_dict("records"))
        return
    out = console()
    if not month.is_closed(datetime.now(UTC)):
        out.print(f"{month.label} is not over: these are its numbers so far.", style="bold")
    shown = frame if all_users else frame.head(_SHOWN_USERS)
    table = Table("user", "state", "why not", "customer", box=None, pad_edge=False)
    for name in ("calls", "usage", "total"):
        table.add_column(name, justify="right")
    for row in shown.to_dict("records"):
        money = format_money(row["total_cents"], row["currency"], grouping=True)
        words = (str(row[name]) for name in ("user", "state", "reason", "customer"))
        table.add_row(*words, f"{row['calls']:,}", f"{row['usage_cents']:f}", money)
    out.print(table)
    if len(shown) < len(frame):
        out.print(f"... and {len(frame) - len(shown):,} more; --all shows them.")
    for (currency, state), group in frame.groupby(["currency", "state"], sort=True):
        money = format_money(int(group["total_cents"].sum()), str(currency), grouping=True)
        out.print(f"{state}: {len(group):,} users, {int(group['calls'].sum()):,} calls, {money}")
    out.print("Nothing was sent to Stripe.")
