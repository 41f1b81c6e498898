"""`spell-billing preview`: what billing a month would send, alone or against what was billed before."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spell_billing.cli.common import clear_errors, console, json_option, month_option, write_json
from spell_billing.core.errors import MonthError
from spell_billing.core.money import format_money
from spell_billing.core.month import Month

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    from spell_billing.core.comparison import Difference
    from spell_billing.reporting.comparing import Against

_SHOWN_USERS = 50
_BILLED = "billed"


class _Against(click.ParamType["Against"]):
    name = "YYYY-MM|billed"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> "Against":
        if value == _BILLED:
            return "billed"
        try:
            return Month.parse(str(value))
        except MonthError:
            self.fail(f"{value!r} is neither a month, as 2026-09, nor the word billed.", param, ctx)


@click.command("preview")
@month_option(required=True)
@click.option(
    "--all", "all_users", is_flag=True, help=f"Show every user, not only the largest {_SHOWN_USERS}."
)
@click.option(
    "--against",
    type=_Against(),
    help="Show what changes against an earlier month, or against what is billed for this one.",
)
@click.option("--csv", type=click.Path(dir_okay=False, path_type=Path), help="Write every user to this file.")
@json_option
def command(
    month: Month, csv: Path | None, against: "Against | None", *, all_users: bool, as_json: bool
) -> None:
    """Show every user's draft of a month, and the totals. Nothing is sent to Stripe, nothing is stored."""
    from spell_billing.ledger.ledger import Ledger  # noqa: PLC0415 - heavy: SQLAlchemy
    from spell_billing.reporting.preview import preview_drafts, spreadsheet_frame  # noqa: PLC0415 - heavy: pandas
    from spell_billing.settings.billing import Settings  # noqa: PLC0415
    from spell_billing.usage.source import open_usage_source  # noqa: PLC0415
    from spell_billing.usage.store import UsageStore  # noqa: PLC0415

    if against == month:
        raise click.BadParameter("write billed for the month itself", param_hint="--against")
    differences: list[Difference] = []
    with clear_errors():
        settings = Settings.from_environment()
        with Ledger(settings.database) as ledger:
            source = open_usage_source(settings.usage_database)
            drafts = preview_drafts(month, ledger, source, UsageStore(settings.usage_store))
            if against is None:
                from spell_billing.reporting.preview import drafts_frame  # noqa: PLC0415

                frame = drafts_frame(drafts)
            else:
                from spell_billing.reporting.comparing import compare_drafts, differences_frame  # noqa: PLC0415

                differences = compare_drafts(month, drafts, ledger, against)
                frame = differences_frame(differences)
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
    out.print(_table_of_drafts(shown) if against is None else _table_of_differences(shown))
    if len(shown) < len(frame):
        out.print(f"... and {len(frame) - len(shown):,} more; --all shows them.")
    if against is None:
        _write_totals(out, frame)
    else:
        _write_changes(out, frame, differences)
    out.print("Nothing was sent to Stripe.")


def _table_of_drafts(frame: "pd.DataFrame") -> "Table":
    from rich.table import Table  # noqa: PLC0415

    table = Table("user", "state", "why not", "customer", box=None, pad_edge=False)
    for name in ("calls", "usage", "total"):
        table.add_column(name, justify="right")
    for row in frame.to_dict("records"):
        money = format_money(row["total_cents"], row["currency"], grouping=True)
        words = (str(row[name]) for name in ("user", "state", "reason", "customer"))
        table.add_row(*words, f"{row['calls']:,}", f"{row['usage_cents']:f}", money)
    return table


def _table_of_differences(frame: "pd.DataFrame") -> "Table":
    from rich.table import Table  # noqa: PLC0415

    table = Table("user", "change", box=None, pad_edge=False)
    for name in ("before", "now", "difference", "calls before", "calls now"):
        table.add_column(name, justify="right")
    for row in frame[frame["change"] != "same"].to_dict("records"):
        amounts = (
            format_money(row[name], row["currency"], grouping=True)
            for name in ("before_cents", "now_cents", "by_cents")
        )
        table.add_row(
            str(row["user"]),
            row["change"],
            *amounts,
            f"{row['before_calls']:,}",
            f"{row['now_calls']:,}",
        )
    return table


def _write_totals(out: "Console", frame: "pd.DataFrame") -> None:
    for (currency, state), group in frame.groupby(["currency", "state"], sort=True):
        money = format_money(int(group["total_cents"].sum()), str(currency), grouping=True)
        out.print(f"{state}: {len(group):,} users, {int(group['calls'].sum()):,} calls, {money}")


def _write_changes(out: "Console", frame: "pd.DataFrame", differences: "list[Difference]") -> None:
    from spell_billing.core.comparison import kinds_of  # noqa: PLC0415

    for (currency, change), group in frame.groupby(["currency", "change"], sort=True):
        money = format_money(int(group["by_cents"].sum()), str(currency), grouping=True)
        out.print(f"{change}: {len(group):,} users, {money}")
    for (currency, kind), cents in kinds_of(differences).items():
        out.print(f"lines of {kind.replace('_', ' ')}: {format_money(cents, currency, grouping=True)}")
    for currency, group in frame.groupby("currency", sort=True):
        amounts = (
            format_money(int(group[name].sum()), str(currency), grouping=True)
            for name in ("before_cents", "now_cents", "by_cents")
        )
        before, now, by = amounts
        out.print(f"in all: {before} before, {now} now, {by} difference")
