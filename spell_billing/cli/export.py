"""`spell-billing export`: a month as files for finance."""

import sys
from pathlib import Path

import click

from spell_billing.cli.common import EXIT_USERS_LEFT, month_option, open_ledger, say
from spell_billing.core.month import Month


@click.command("export")
@month_option(required=True)
@click.option(
    "--to",
    "folder",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to; SPELL_BILLING_EXPORTS unless given.",
)
def export(month: Month, folder: Path | None) -> None:
    """Write a month's bills, payments and journal as Parquet and CSV, as the ledger has them now.

    Ends with 3 where the journal does not balance.
    """
    from spell_billing.reporting import finance, journal  # noqa: PLC0415 - heavy: pyarrow, SQLAlchemy
    from spell_billing.settings.billing import Settings  # noqa: PLC0415

    place = folder or Settings.from_environment().exports
    with open_ledger() as ledger, ledger.reading() as connection:
        finance.require_drafted(connection, month)
        tables = {dataset.name: dataset.read(connection, month) for dataset in finance.DATASETS}
        postings = [journal.Posting(**row) for row in tables[finance.JOURNAL.name].to_pylist()]
        found = list(journal.imbalances(connection, month, postings))
    for name, table in tables.items():
        for path in finance.export(table, name, month, place):
            say(f"{path}: {len(table):,} rows")
    for text in found:
        say(text, err=True)
    if found:
        sys.exit(EXIT_USERS_LEFT)
