"""The assets for finance: a month's bills, payments and journal as Parquet and CSV files."""

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from spell_billing.orchestration.assets.common import failures, overview_link, table, table_schema
from spell_billing.orchestration.assets.external import stripe_account
from spell_billing.orchestration.partitions import MONTHLY, billable_month
from spell_billing.orchestration.resources import LedgerResource
from spell_billing.orchestration.unstable import OWNERS
from spell_billing.reporting.finance import INVOICES, JOURNAL, PAYMENTS, Dataset, export, require_drafted
from spell_billing.reporting.journal import imbalances, read_journal
from spell_billing.settings.billing import Settings

GROUP = "finance"
_SHOWN_POSTINGS = 200


def _exported(dataset: Dataset, name: str, description: str) -> dg.AssetsDefinition:
    """Define the asset that writes a table of a month, as the ledger has it now."""
    columns = table_schema(*((each.name, str(each.type), each.about) for each in dataset.columns))

    @dg.asset(
        name=name,
        deps=[stripe_account],
        partitions_def=MONTHLY,
        group_name=GROUP,
        owners=OWNERS,
        kinds={"parquet", "csv"},
        tags={"spell_billing/step": "export"},
        code_version="1",
        metadata={"dagster/column_schema": columns},
        description=f"{description} As Parquet and CSV, as the ledger has it now.",
    )
    def exported(context: dg.AssetExecutionContext, ledger: LedgerResource) -> dg.MaterializeResult[None]:
        with failures():
            month = billable_month(context)
            with ledger.open_read_only() as opened, opened.reading() as connection:
                require_drafted(connection, month)
                found = dataset.read(connection, month)
            parquet, csv = export(found, dataset.name, month, Settings.from_environment().exports)
        amounts = [name for name in found.column_names if name.endswith("_cents") and name != "usage_cents"]
        # A sum over currencies says nothing.
        sums = {name: _sum(found, name) for name in amounts} if len(set(found["currency"])) <= 1 else {}
        postings = found.slice(0, _SHOWN_POSTINGS).to_pylist() if dataset is JOURNAL else []
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": len(found),
                "dagster/column_schema": columns,
                "dagster/uri": parquet.absolute().as_uri(),
                "csv": dg.MetadataValue.path(str(csv)),
                **sums,
                **({"postings": table(postings)} if postings else {}),
                **overview_link(month),
            }
        )

    return exported


def _sum(found: pa.Table, name: str) -> int:
    return int(pc.sum(found[name]).as_py() or 0)


invoices_export = _exported(INVOICES, "invoices_export", "Each user's latest bill of a month.")
payments_export = _exported(
    PAYMENTS,
    "payments_export",
    "What became of each invoice of a month, as far as Stripe was read.",
)
journal = _exported(
    JOURNAL,
    "journal",
    "A month in double entry, by currency: bills, payments and what went back.",
)


@dg.asset_check(
    asset=journal,
    description="Each entry balances, and receivables are what is open at Stripe, in each currency.",
)
def journal_balances(context: dg.AssetCheckExecutionContext, ledger: LedgerResource) -> dg.AssetCheckResult:
    """Look for what does not balance in the ledger as it is now."""
    with failures():
        month = billable_month(context)
        with ledger.open_read_only() as opened, opened.reading() as connection:
            postings = read_journal(connection, month)
            found = list(imbalances(connection, month, postings))
    return dg.AssetCheckResult(
        passed=not found,
        severity=dg.AssetCheckSeverity.ERROR,
        description=" ".join(found) or "Every entry balances, and receivables are what is open at Stripe.",
        metadata={"postings": len(postings), "imbalances": len(found)},
    )
