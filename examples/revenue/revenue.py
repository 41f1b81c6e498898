#!/usr/bin/env python3
"""Draws the revenue of the last closed months, from the journal of the ledger in DATABASE_URL."""

from datetime import UTC, datetime
from pathlib import Path

import click
import pandas as pd
from matplotlib.figure import Figure

from spell_billing import frames
from spell_billing.core.month import Month

_REVENUE = ["usage_revenue", "fee_revenue"]


def revenue(last: Month, months: int) -> pd.DataFrame:
    """Return revenue in minor units: a row for each month, a column for each currency and account."""
    names = [str(last.plus(-back)) for back in reversed(range(months))]
    journal = pd.concat([frames.journal(name) for name in names])
    booked = journal[journal["account"].isin(_REVENUE)]
    cents = (booked["credit_cents"] - booked["debit_cents"]).astype("int64")
    by_account = booked.assign(cents=cents).pivot_table(
        values="cents", index="month", columns=["currency", "account"], aggfunc="sum", fill_value=0
    )
    return by_account.reindex(names, fill_value=0)


@click.command()
@click.option("--months", type=click.IntRange(1, 60), default=6, show_default=True)
@click.option("--last", metavar="YYYY-MM", help="The last month; the one that closed last unless given.")
@click.option("--to", "path", type=click.Path(path_type=Path), default=Path("revenue.svg"), show_default=True)
def main(months: int, last: str | None, path: Path) -> None:
    """Draw the revenue of the last months, a panel for each currency, as an SVG or PNG file."""
    found = revenue(Month.parse(last) if last else Month.containing(datetime.now(UTC)).previous(), months)
    if found.empty:
        raise click.ClickException("None of these months was billed. Name another with --last YYYY-MM.")
    click.echo(found.to_string())
    currencies = sorted(set(found.columns.get_level_values("currency")))
    figure = Figure(figsize=(8, 3 * max(1, len(currencies))), layout="constrained")
    for place, currency in enumerate(currencies, start=1):
        axes = figure.add_subplot(len(currencies), 1, place)
        title = f"Revenue in minor units, {currency.upper()}"
        found[currency].plot.bar(stacked=True, ax=axes, rot=0, title=title)
    figure.savefig(path)


if __name__ == "__main__":
    main()
