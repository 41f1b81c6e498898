"""`spell-billing simulate`: what users would have paid in frozen months under other prices."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Column, Table

from spell_billing.cli.common import MonthType, console, write_json, writing
from spell_billing.core.errors import UsageError
from spell_billing.core.money import format_money
from spell_billing.core.month import Month
from spell_billing.core.shown import one_line

if TYPE_CHECKING:
    from spell_billing.core.simulation import Figures, UserChange
    from spell_billing.reporting.simulate import Simulation

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command("simulate")
@click.option("--from", "first", type=MonthType(), required=True, help="The first month, as 2026-01.")
@click.option("--to", "last", type=MonthType(), required=True, help="The last month, as 2026-06.")
@click.option("--pricing", type=_FILE, required=True, help="The other prices, as docs/pricing.md says.")
@click.option("--csv", type=_FILE, help="Write every user's change to this file.")
@click.option("--chart", type=_FILE, help="Draw the months before and after into this SVG file.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON for programs.")
def command(
    first: Month, last: Month, pricing: Path, csv: Path | None, chart: Path | None, *, as_json: bool
) -> None:
    """Say what users would have paid in frozen months under other prices. Nothing is sent or stored."""
    from spell_billing.ledger.ledger import Ledger  # noqa: PLC0415 - heavy: SQLAlchemy
    from spell_billing.reporting import simulate as simulation  # noqa: PLC0415 - heavy: pandas
    from spell_billing.reporting.new_pricing import read_pricing  # noqa: PLC0415 - heavy: Arrow
    from spell_billing.reporting.preview import write_csv  # noqa: PLC0415
    from spell_billing.reporting.simulation_chart import draw  # noqa: PLC0415
    from spell_billing.settings.billing import Settings  # noqa: PLC0415
    from spell_billing.usage.store import open_usage_store  # noqa: PLC0415

    prices = read_pricing(_text_of(pricing), pricing.name)
    settings = Settings.from_environment()
    with Ledger(settings.database, read_only=True) as ledger:
        store = open_usage_store(settings.usage_store)
        found = simulation.simulate(ledger, store, first, last, pricing=prices, name=pricing.name)
    if csv is not None:
        with writing(csv):
            write_csv(simulation.users_frame(found), csv)
    if chart is not None:
        with writing(chart):
            chart.write_text(draw(found), encoding="utf-8")
    if as_json:
        write_json(found.as_json())
        return
    out = console()
    out.print(_table_of_months(found))
    for figures in found.figures:
        for line in _in_words(figures):
            out.print(one_line(line))
    if found.largest:
        out.print("The largest changes:", style="bold")
        out.print(_table_of_users(found.largest))
    for source in dict.fromkeys(each.before_from for each in found.months):
        months = ", ".join(str(each.month) for each in found.months if each.before_from == source)
        out.print(f"Before, in {months}: {source}.")
    for card in found.unused_cards:
        out.print(one_line(f"{card} priced nothing in these months: check its plan, item and date."))
    out.print("Without late usage, credits and taxes. Nothing was sent to Stripe, nothing was stored.")


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} cannot be read: {error}.", remedy="Give the file of the other prices, a text in UTF-8."
        ) from error


def _table_of_months(found: "Simulation") -> Table:
    right = ("users", "before", "after", "difference", "pay more", "pay less", "p50", "p95")
    table = Table("month", *(Column(name, justify="right") for name in right), box=None, pad_edge=False)
    in_all = [("in all", figures) for figures in found.figures]
    for name, each in [*((str(one.month), each) for one in found.months for each in one.figures), *in_all]:
        cents = (each.before_cents, each.after_cents, each.by_cents)
        amounts = (format_money(one, each.currency, grouping=True) for one in cents)
        counts = (f"{group.users:,}" for group in (each.more, each.less))
        middle = (format_money(one, each.currency, grouping=True) for one in (each.p50_cents, each.p95_cents))
        table.add_row(name, f"{each.users:,}", *amounts, *counts, *middle)
    return table


def _in_words(figures: "Figures") -> Iterator[str]:
    from spell_billing.alerts.alert import users  # noqa: PLC0415 - heavy: SQLAlchemy

    def money(cents: int) -> str:
        return format_money(cents, figures.currency, grouping=True)

    yield (
        f"{figures.currency.upper()}: pay more: {users(figures.more.users)}, {money(figures.more.by_cents)}; "
        f"pay less: {users(figures.less.users)}, {money(-figures.less.by_cents)}; "
        f"pay the same: {users(figures.same.users)}."
    )
    yield (
        f"Change per user: p50 {money(figures.p50_cents)}, p95 {money(figures.p95_cents)}; "
        f"in all {money(figures.before_cents)} before, {money(figures.after_cents)} after."
    )


def _table_of_users(changes: "Sequence[UserChange]") -> Table:
    right = ("before", "after", "difference")
    table = Table("user", *(Column(name, justify="right") for name in right), box=None, pad_edge=False)
    for each in changes:
        cents = (each.before_cents, each.after_cents, each.by_cents)
        table.add_row(
            one_line(each.user_id), *(format_money(one, each.currency, grouping=True) for one in cents)
        )
    return table
