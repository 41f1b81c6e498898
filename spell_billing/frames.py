"""A month as typed DataFrames, for notebooks and reports: bills, payments and the journal, from the ledger.

Columns have Arrow types, so that whole numbers stay whole and exact amounts exact, nulls or not. What they
are stands in docs/finance.md. The ledger is only read.
"""

from typing import TYPE_CHECKING

from spell_billing.core.month import Month
from spell_billing.ledger.ledger import Ledger
from spell_billing.reporting.finance import INVOICES, JOURNAL, PAYMENTS, Dataset
from spell_billing.settings.billing import Settings
from spell_billing.settings.databases import parse_database_url

if TYPE_CHECKING:
    import pandas as pd


def invoices(month: str, *, database_url: str | None = None) -> "pd.DataFrame":
    """Return each user's latest bill of a month.

    Args:
        month: As 2026-10.
        database_url: The ledger's; DATABASE_URL where it is left out.

    Raises:
        MonthError: when the month cannot be read.
        LedgerError: when the ledger cannot.
    """
    return _frame(INVOICES, month, database_url)


def payments(month: str, *, database_url: str | None = None) -> "pd.DataFrame":
    """Return what became of each invoice of a month, as far as Stripe was read; as `invoices`."""
    return _frame(PAYMENTS, month, database_url)


def journal(month: str, *, database_url: str | None = None) -> "pd.DataFrame":
    """Return the postings of a month in double entry, by currency; as `invoices`."""
    return _frame(JOURNAL, month, database_url)


def _frame(dataset: Dataset, month: str, database_url: str | None) -> "pd.DataFrame":
    import pandas as pd  # noqa: PLC0415 - heavy

    parsed = Month.parse(month)
    url = (
        Settings.from_environment().database
        if database_url is None
        else parse_database_url(database_url, setting="database_url")
    )
    with Ledger(url, read_only=True) as ledger, ledger.reading() as connection:
        frame: pd.DataFrame = dataset.read(connection, parsed).to_pandas(types_mapper=pd.ArrowDtype)
        return frame
