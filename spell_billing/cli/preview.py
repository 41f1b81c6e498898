"""`spell-billing preview`: what billing a month would send, alone or against what was billed before."""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Column, Table

from spell_billing.alerts.alert import users
from spell_billing.cli.common import console, json_option, month_option, open_ledger, write_json, writing
from spell_billing.core.comparison import Difference, kinds_of
from spell_billing.core.errors import MonthError
from spell_billing.core.money import format_money, plain
from spell_billing.core.month import Month
from spell_billing.core.shown import one_line

if TYPE_CHECKING:
    import pandas as pd

    from spell_billing.ledger.month_state import Standing
    from spell_billing.reporting.preview import Against

_SHOWN_USERS = 50
_COMPARED = ("before_cents", "now_cents", "by_cents")


def _against(_: click.Context, __: click.Parameter, text: str | None) -> "Against | Path | None":
    if text is None:
        return None
    if text.lower() == "billed":
        return "billed"
    try:
        return Month.parse(text)
    except MonthError:
        if Path(text).is_file():
            return Path(text)
        raise click.BadParameter(
            f"{text!r} is neither a month, as 2026-09, nor the word billed, nor a file."
        ) from None


@click.command("preview")
@month_option(required=True)
@click.option(
    "--all", "all_users", is_flag=True, help=f"Show every user, not only the largest {_SHOWN_USERS}."
)
@click.option(
    "--against",
    metavar="YYYY-MM|billed|FILE",
    callback=_against,
    help="Show what changes against an earlier month, against what is billed for this one, or against a CSV "
    "file of what another service billed for it (user_id, amount_cents, stripe_invoice_id).",
)
@click.option("--csv", type=click.Path(dir_okay=False, path_type=Path), help="Write every user to this file.")
@json_option
def command(
    month: Month, csv: Path | None, against: "Against | Path | None", *, all_users: bool, as_json: bool
) -> None:
    """Show every user's draft of a month, and the totals. Nothing is sent to Stripe, nothing is stored.

    Of a month whose billing has started, bills that were sent or closed are shown as they are, and users who
    wait for a bill as the next run would draft them. --json has each user's plan and lines as well.
    """
    from spell_billing.reporting import old_service, preview  # noqa: PLC0415 - heavy: pandas
    from spell_billing.settings.billing import Settings  # noqa: PLC0415
    from spell_billing.usage.contract import SourceRules  # noqa: PLC0415
    from spell_billing.usage.source import open_usage_source  # noqa: PLC0415
    from spell_billing.usage.store import open_usage_store  # noqa: PLC0415

    if against == month:
        raise click.BadParameter("write billed for the month itself", param_hint="--against")
    settings = Settings.from_environment()
    differences: list[Difference] = []
    # A file that cannot be read is said so before the usage is.
    old = old_service.read_old_bills(against) if isinstance(against, Path) else {}
    with open_ledger() as ledger:
        standing = ledger.standing(month)
        source = open_usage_source(settings.usage_database, SourceRules(items_by=settings.line_items_by))
        store = open_usage_store(settings.usage_store)
        drafts = preview.preview_drafts(month, ledger, source, store, settings.policy)
        if against is None:
            frame = preview.drafts_frame(drafts, with_lines=as_json)
        elif isinstance(against, Path):
            frame = old_service.old_service_frame(drafts, old)
        else:
            differences = preview.compare_drafts(month, drafts, ledger, against)
            frame = preview.differences_frame(differences)
    if csv is not None:
        with writing(csv):
            preview.write_csv(frame.drop(columns="lines", errors="ignore"), csv)
    if as_json:
        write_json(frame.to_dict("records"))
        return
    out = console()
    for note in _notes(standing):
        out.print(one_line(note), style="bold")
    shown = frame if all_users else frame.head(_SHOWN_USERS)
    if isinstance(against, Path):
        out.print(_table_of_old(shown))
    else:
        out.print(_table_of_drafts(shown) if against is None else _table_of_differences(shown))
    if len(shown) < len(frame):
        out.print(f"... and {len(frame) - len(shown):,} more; --all shows them.")
    lines = _totals(frame) if against is None else _changes(frame, differences)
    for line in old_service.summary(frame) if isinstance(against, Path) else lines:
        out.print(one_line(line))
    out.print("Nothing was sent to Stripe.")


def _notes(standing: "Standing") -> Iterator[str]:
    """Return what a reader must know of the month before its numbers."""
    label, state = standing.month.label, standing.state(datetime.now(UTC))
    if state == "open":
        yield f"{label} is not over: these are its numbers so far."
    elif state == "billed":
        yield f"{label} is billed: its bills are shown as they are, and another run would send nothing."
    elif standing.started:
        yield (
            f"Billing of {label} has started: what was sent or closed is shown as it is, and what "
            "waits as the next run would draft it."
        )


def _table(*left: str, right: tuple[str, ...]) -> Table:
    return Table(*left, *(Column(name, justify="right") for name in right), box=None, pad_edge=False)


def _money(cents: Any, currency: Any) -> str:
    return format_money(int(cents), str(currency), grouping=True)


def _usage(cents: Decimal, currency: Any) -> str:
    """Write usage as money; with fractions of a minor unit, which rounding would hide, as they are."""
    return _money(cents, currency) if cents == int(cents) else f"{plain(cents)} cents"


def _table_of_drafts(frame: "pd.DataFrame") -> Table:
    plans = ("plan",) if (frame["plan"] != "").any() else ()
    table = _table("user", *plans, "state", "why not", "customer", right=("calls", "usage", "total"))
    for row in frame.to_dict("records"):
        words = (str(row[name]) for name in ("user", *plans, "state", "reason", "customer"))
        total = _money(row["total_cents"], row["currency"])
        table.add_row(
            *map(one_line, words), f"{row['calls']:,}", _usage(row["usage_cents"], row["currency"]), total
        )
    return table


def _table_of_differences(frame: "pd.DataFrame") -> Table:
    numbers = ("before", "now", "difference", "calls before", "calls now")
    table = _table("user", "change", right=numbers)
    for row in frame[frame["change"] != "same"].to_dict("records"):
        amounts = (_money(row[name], row["currency"]) for name in _COMPARED)
        calls = (f"{row[name]:,}" for name in ("before_calls", "now_calls"))
        table.add_row(one_line(str(row["user"])), row["change"], *amounts, *calls)
    return table


def _table_of_old(frame: "pd.DataFrame") -> Table:
    table = _table("user", "outcome", "old invoice", "why", right=("old", "now", "difference"))
    for row in frame[frame["outcome"] != "same"].to_dict("records"):
        words = (str(row[name]) for name in ("user", "outcome", "old_invoice", "why"))
        table.add_row(
            *map(one_line, words), *(f"{row[name]:,}" for name in ("old_cents", "now_cents", "by_cents"))
        )
    return table


def _totals(frame: "pd.DataFrame") -> Iterator[str]:
    for (currency, state), group in frame.groupby(["currency", "state"], sort=True):
        money = _money(group["total_cents"].sum(), currency)
        yield f"{state}: {users(len(group))}, {int(group['calls'].sum()):,} calls, {money}"


def _changes(frame: "pd.DataFrame", differences: "list[Difference]") -> Iterator[str]:
    for (currency, change), group in frame.groupby(["currency", "change"], sort=True):
        yield f"{change}: {users(len(group))}, {_money(group['by_cents'].sum(), currency)}"
    for (currency, kind), cents in kinds_of(differences).items():
        yield f"lines of {kind.replace('_', ' ')}: {_money(cents, currency)}"
    for currency, group in frame.groupby("currency", sort=True):
        before, now, by = (_money(group[name].sum(), currency) for name in _COMPARED)
        yield f"in all: {before} before, {now} now, {by} difference"
