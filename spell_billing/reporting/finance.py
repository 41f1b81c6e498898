"""A month for finance and data people: bills, payments and journal as tables, and as files."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.errors import IntegrityError, LedgerError, SpellBillingError
from spell_billing.core.money import plain
from spell_billing.core.month import Month
from spell_billing.core.spreadsheets import BYTE_ORDER_MARK, FORMULA
from spell_billing.ledger.money_tables import charges, payments
from spell_billing.ledger.queries import latest_generation, read_month
from spell_billing.ledger.schema import invoices
from spell_billing.reporting.journal import read_journal

_ROWS_AT_ONCE = 5_000
_TEXT, _WHOLE, _TIME = pa.string(), pa.int64(), pa.timestamp("us", tz="UTC")
_EXACT = pa.decimal128(38, 18)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its name, its type, and what it is."""

    name: str
    type: pa.DataType
    about: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """A table of one month: its columns, and how its rows are read from the ledger."""

    name: str
    columns: Sequence[Column]
    rows: Callable[[Connection, Month], Iterator[Mapping[str, Any]]]

    @property
    def schema(self) -> pa.Schema:
        """The types of the columns."""
        return pa.schema([(each.name, each.type) for each in self.columns])

    def read(self, connection: Connection, month: Month) -> pa.Table:
        """Read the table of a month.

        Raises:
            IntegrityError: when a row was altered to what its column does not hold.
        """
        rows = iter(self.rows(connection, month))
        some = iter(lambda: list(islice(rows, _ROWS_AT_ONCE)), [])
        batches = (pa.RecordBatch.from_pylist(each, schema=self.schema) for each in some)
        try:
            return pa.Table.from_batches(batches, schema=self.schema)
        except pa.ArrowInvalid as error:
            raise IntegrityError(
                f"A row of the {self.name} of {month} was altered, and cannot be read ({error}).",
                remedy="`spell-billing reconcile` names the row. Restore it from the ledger's backup.",
            ) from None


def _bills(connection: Connection, month: Month) -> Iterator[Mapping[str, Any]]:
    bill, nothing = invoices.c, sa.literal(0)
    tax, discount = (
        sa.func.coalesce(each, nothing).label(each.name) for each in (bill.tax_cents, bill.discount_cents)
    )
    null_is_zero = {tax.name, discount.name}
    own = (each.name for each in INVOICES.columns if each.name in bill and each.name not in null_is_zero)
    query = sa.select(
        *(bill[name] for name in own),
        tax,
        discount,
        (bill.total_cents + tax - discount).label("invoice_cents"),
    ).where(latest_generation(month))
    return _mappings(connection, query.order_by(bill.id))


def _payments(connection: Connection, month: Month) -> Iterator[Mapping[str, Any]]:
    back = (
        sa.select(
            charges.c.stripe_invoice_id,
            sa.func.sum(charges.c.refunded_cents).label("refunded"),
            sa.func.sum(charges.c.disputed_cents).label("disputed"),
        )
        .where(charges.c.month == str(month))
        .group_by(charges.c.stripe_invoice_id)
        .subquery()
    )
    paid, nothing = payments.c, sa.literal(0)
    refunded = sa.func.coalesce(back.c.refunded, nothing) + paid.returned_outside_cents
    disputed = sa.func.coalesce(back.c.disputed, nothing)
    own = (each.name for each in PAYMENTS.columns if each.name in paid)
    query = (
        sa.select(
            *(paid[name] for name in own),
            invoices.c.currency,
            sa.case(
                (paid.status == "open", paid.amount_due_cents - paid.amount_paid_cents), else_=nothing
            ).label("open_cents"),
            refunded.label("refunded_cents"),
            disputed.label("disputed_cents"),
            (paid.amount_paid_cents - refunded - disputed).label("kept_cents"),
        )
        .join(invoices, invoices.c.stripe_invoice_id == paid.stripe_invoice_id)
        .outerjoin(back, back.c.stripe_invoice_id == paid.stripe_invoice_id)
        .where(paid.month == str(month))
        .order_by(paid.stripe_invoice_id)
    )
    return _mappings(connection, query)


def _mappings(connection: Connection, query: sa.Select[Any]) -> Iterator[Mapping[str, Any]]:
    for row in connection.execute(query.execution_options(yield_per=_ROWS_AT_ONCE)).mappings():
        yield dict(row)


INVOICES = Dataset(
    "invoices",
    (
        Column("month", _TEXT, "The billing period, as 2026-10"),
        Column("user_id", _TEXT, "The platform's user"),
        Column("generation", _WHOLE, "1; higher after a void"),
        Column("state", _TEXT, "Where the bill stands: the latest of the user's"),
        Column("reason", _TEXT, "Why there is no invoice; null where there is one"),
        Column("stripe_customer_id", _TEXT, "The customer at Stripe"),
        Column("stripe_invoice_id", _TEXT, "The invoice at Stripe; null before there is one"),
        Column("plan_id", _TEXT, "The plan that the user was on last in the month"),
        Column("currency", _TEXT, "Of all amounts, in three lower-case letters"),
        Column("calls", _WHOLE, "Calls of the month"),
        Column("usage_cents", _EXACT, "Their exact cost in minor units"),
        Column("total_cents", _WHOLE, "What the lines come to, in minor units"),
        Column("discount_cents", _WHOLE, "What coupons at Stripe take off"),
        Column("tax_cents", _WHOLE, "The tax on top"),
        Column("invoice_cents", _WHOLE, "What the invoice asks for: total - discount + tax"),
        Column("finalized_at", _TIME, "When the invoice was finalized"),
    ),
    _bills,
)
PAYMENTS = Dataset(
    "payments",
    (
        Column("month", _TEXT, "The billing period of the invoice"),
        Column("user_id", _TEXT, "The platform's user"),
        Column("stripe_invoice_id", _TEXT, "The invoice at Stripe"),
        Column("status", _TEXT, "Stripe's word: open, paid, uncollectible or void"),
        Column("currency", _TEXT, "Of all amounts"),
        Column("amount_due_cents", _WHOLE, "What was to be paid, in minor units"),
        Column("amount_paid_cents", _WHOLE, "Money received"),
        Column("open_cents", _WHOLE, "What is still to be paid"),
        Column("credited_cents", _WHOLE, "Taken off by credit notes before the payment"),
        Column("moved_cents", _WHOLE, "Moved to the customer's next invoice; below zero: from an earlier"),
        Column("from_balance_cents", _WHOLE, "Paid from the customer's balance"),
        Column("to_balance_cents", _WHOLE, "Given back to the customer's balance"),
        Column("refunded_cents", _WHOLE, "Given back after the payment"),
        Column("disputed_cents", _WHOLE, "Taken back by banks, in disputes that are open or lost"),
        Column("kept_cents", _WHOLE, "Paid - refunded - disputed"),
        Column("failed_attempts", _WHOLE, "Attempts that are known to have failed"),
        Column("decline_code", _TEXT, "Why the last of them failed"),
        Column("as_of", _TIME, "When Stripe said so"),
    ),
    _payments,
)
JOURNAL = Dataset(
    "journal",
    (
        Column("month", _TEXT, "The billing period"),
        Column("currency", _TEXT, "Of the amounts"),
        Column("entry", _TEXT, "What happened; each entry balances by itself"),
        Column("account", _TEXT, "Where the amount stands"),
        Column("debit_cents", _WHOLE, "Debit in minor units, or zero"),
        Column("credit_cents", _WHOLE, "Credit in minor units, or zero"),
    ),
    lambda connection, month: map(asdict, read_journal(connection, month)),
)
DATASETS = (INVOICES, PAYMENTS, JOURNAL)


def require_drafted(connection: Connection, month: Month) -> None:
    """Refuse a month of which the ledger has nothing: files without a row would look like one without sales.

    Raises:
        LedgerError: naming the month.
    """
    if read_month(connection, month) is None:
        raise LedgerError(
            f"{month} has no bills: it was never drafted in this ledger.",
            remedy="`spell-billing status` lists the months; check DATABASE_URL where one is missing.",
        )


def export(table: pa.Table, name: str, month: Month, folder: Path) -> list[Path]:
    """Write a month's table as Parquet and as CSV, each whole or not at all; return the files.

    In CSV no text is a formula, and amounts are plain decimals.

    Raises:
        SpellBillingError: when the folder cannot be written to.
    """
    place = folder / str(month)
    written = []
    try:
        place.mkdir(parents=True, exist_ok=True)
        for ending, write in (("parquet", pq.write_table), ("csv", _write_csv)):
            final, unfinished = place / f"{name}.{ending}", place / f".{name}.{ending}.{os.getpid()}"
            try:
                write(table, unfinished)
                unfinished.replace(final)
            finally:
                unfinished.unlink(missing_ok=True)
            written.append(final)
    except OSError as error:
        raise SpellBillingError(
            f"{place} cannot be written to: {error.strerror or error}.",
            remedy="Make room there, or name another folder by --to or SPELL_BILLING_EXPORTS.",
        ) from error
    return written


def remove_naming(user_id: str, folder: Path) -> list[str]:
    """Remove the files of each month that name a user, so that none keeps an erased id; return the months.

    Safe to repeat: a table's Parquet file, which tells whom it names, goes after its CSV.
    """
    found = []
    for place in sorted(folder.glob("????-??")):
        if any(_names(user_id, place / f"{each.name}.parquet") for each in (INVOICES, PAYMENTS)):
            found.append(place.name)
            for dataset in DATASETS:
                for ending in ("csv", "parquet"):
                    (place / f"{dataset.name}.{ending}").unlink(missing_ok=True)
    return found


def _names(user_id: str, path: Path) -> bool:
    """Return whether a file names a user; one that cannot be read may."""
    try:
        return path.exists() and user_id in pq.read_table(path, columns=["user_id"])["user_id"].to_pylist()
    except pa.ArrowException:
        return True


def _write_csv(table: pa.Table, path: Path) -> None:
    for place, field in enumerate(table.schema):
        column = table.column(place)
        if pa.types.is_decimal(field.type):
            texts = [None if each is None else plain(Decimal(each)) for each in column.to_pylist()]
            table = table.set_column(place, field.name, pa.array(texts, pa.string()))
        elif pa.types.is_string(field.type):
            formula = pc.match_substring_regex(column, f"^[{''.join(FORMULA)}]".replace("-", r"\-"))
            safe = pc.if_else(formula, pc.binary_join_element_wise("'", column, ""), column)
            table = table.set_column(place, field.name, safe)
    with path.open("wb") as file:
        file.write(BYTE_ORDER_MARK.encode())
        pa_csv.write_csv(table, file)
