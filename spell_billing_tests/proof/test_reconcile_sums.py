"""Reconciliation over random months: its sums are the true ones, and a cent of difference is found."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spell_billing.core.drafting import Account, Draft, draft_invoice
from spell_billing.core.keys import invoice_metadata
from spell_billing.core.money import exact_sum
from spell_billing.core.outcomes import State
from spell_billing.invoicing.findings import Kind, Reconciliation
from spell_billing.invoicing.reconcile import bills_by_user, reconcile
from spell_billing.ledger.rows import Bill, new_bill_values
from spell_billing.stripe_double import Invoice, StripeDouble
from spell_billing.stripe_double.objects import Line
from spell_billing.usage.frozen import BadRows, FrozenFile, FrozenUsage, Manifest, Totals
from spell_billing.usage.user_usage import keep_user_usage
from spell_billing_tests.proof.small_platform import MARCH, SmallPlatform

_NOW = datetime(2025, 4, 1, tzinfo=UTC)
_SCHEMA = pa.schema([("user_id", pa.string()), ("calls", pa.int64()), ("cost_cents", pa.decimal128(38, 4))])

usages = st.lists(
    st.tuples(
        st.integers(1, 1_000),
        st.decimals(Decimal(-500), Decimal(99_999_000), places=4),
        st.sampled_from([0, 100, 5_000]),
    ),
    max_size=12,
)


@pytest.fixture(scope="module")
def account() -> Iterator[SmallPlatform]:
    """Give the way to one Stripe account; neither tables nor ledger are behind it."""
    with StripeDouble().running() as double:
        yield SmallPlatform("sqlite:///unused.db", None, double, Path("unused"))


def drafts(month: list[tuple[int, Decimal, int]]) -> list[Draft]:
    return [
        draft_invoice(
            MARCH,
            f"user-{number:04}",
            calls=calls,
            usage_cents=cents,
            account=Account(f"cus_{number}", plan_id="pro", included_cents=included),
        )
        for number, (calls, cents, included) in enumerate(month)
    ]


def bill_of(number: int, draft: Draft) -> Bill:
    values = new_bill_values(MARCH, draft, generation=1, run_id="run-1", now=_NOW)
    if draft.state is State.PLANNED:
        values |= {"state": State.FINALIZED, "stripe_invoice_id": f"in_{number}", "finalized_at": _NOW}
    return Bill(id=number, **values)


def freeze(directory: Path, month: list[Draft]) -> FrozenUsage:
    rows: list[dict[str, Any]] = [
        {"user_id": each.user_id, "calls": each.calls, "cost_cents": each.usage_cents} for each in month
    ]
    for name in ("unfinished", "sums.parquet"):
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), directory / name)
    keep_user_usage(directory / "unfinished", directory)
    totals = Totals(sum(each.calls for each in month), exact_sum(*(each.usage_cents for each in month)))
    files = (FrozenFile("sums.parquet", "", len(rows)),)
    added_up = (3, MARCH, _NOW, "duckdb", 4, totals, totals, files, None, (), BadRows(0, ()))
    manifest = Manifest(*added_up, fingerprint=Decimal(0))
    return FrozenUsage(MARCH, "v0001", directory, manifest)


def send(double: StripeDouble, bills: list[Bill]) -> None:
    double.reset()
    for bill in bills:
        if bill.stripe_invoice_id is not None:
            double.state.put_invoice(
                Invoice(
                    id=bill.stripe_invoice_id,
                    customer=str(bill.stripe_customer_id),
                    customer_email=None,
                    customer_name=None,
                    created=int(_NOW.timestamp()),
                    currency=bill.currency,
                    status="open",
                    metadata=invoice_metadata(bill.month, bill.user_id, 1, bill.lines_hash, bill.calls),
                    total_cents=bill.total_cents,
                    lines=tuple(_line(bill, place) for place in range(len(bill.parsed_lines))),
                )
            )


def _line(bill: Bill, place: int) -> Line:
    line = bill.parsed_lines[place]
    return Line(
        id=f"il_{bill.id}_{place}",
        item=f"ii_{bill.id}_{place}",
        amount_cents=line.amount_cents,
        currency=bill.currency,
        description=line.description,
        metadata={},
        period_start=MARCH.first_second,
        period_end=MARCH.last_second,
    )


def compare(account: SmallPlatform, frozen: FrozenUsage, bills: list[Bill]) -> Reconciliation:
    async def ask() -> Reconciliation:
        async with account.gateway() as gateway:
            return await reconcile(MARCH, frozen, bills_by_user(bills), gateway)

    return asyncio.run(ask())


@given(month=usages)
@settings(max_examples=25)
def test_the_sums_of_a_clean_month_are_exact(
    account: SmallPlatform, tmp_path: Path, month: list[tuple[int, Decimal, int]]
) -> None:
    drafted = drafts(month)
    bills = [bill_of(number, draft) for number, draft in enumerate(drafted)]
    send(account.double, bills)
    result = compare(account, freeze(tmp_path, drafted), bills)
    due = [draft.total_cents for draft in drafted if draft.state is State.PLANNED]
    assert result.findings == []
    assert (result.frozen_users, result.frozen_calls) == (len(month), sum(calls for calls, _, _ in month))
    assert result.frozen_usage_cents == sum((cents for _, cents, _ in month), Decimal(0))
    assert (result.ledger_invoices, result.ledger_cents) == (len(due), sum(due))
    assert (result.stripe_invoices, result.stripe_cents) == (len(due), sum(due))


@given(month=usages.filter(bool), data=st.data())
@settings(max_examples=25)
def test_a_cent_of_difference_is_found_wherever_it_is(
    account: SmallPlatform, tmp_path: Path, month: list[tuple[int, Decimal, int]], data: st.DataObject
) -> None:
    drafted = drafts(month)
    bills = [bill_of(number, draft) for number, draft in enumerate(drafted)]
    send(account.double, bills)
    frozen = freeze(tmp_path, drafted)
    number = data.draw(st.integers(0, len(bills) - 1))
    bill, by = bills[number], data.draw(st.sampled_from([-1, 1]))
    where = data.draw(st.sampled_from(["usage", "total", "stripe"]))
    expected = {Kind.USAGE_DIFFERS, Kind.LINES_DO_NOT_ADD_UP}
    if where == "usage":
        bills[number] = replace(bill, usage_cents=bill.usage_cents + by)
    elif where == "total":
        bills[number] = replace(bill, total_cents=bill.total_cents + by)
        expected = {Kind.LINES_DO_NOT_ADD_UP}
        expected |= {Kind.AMOUNT_DIFFERS} if bill.stripe_invoice_id else set()
    elif bill.stripe_invoice_id is not None:
        invoice = account.double.state.invoices.get(bill.stripe_invoice_id)
        account.double.state.put_invoice(replace(invoice, total_cents=invoice.total_cents + by))
        expected = {Kind.AMOUNT_DIFFERS}
    else:
        expected = set()
    result = compare(account, frozen, bills)
    assert {(each.user_id, each.kind) for each in result.findings} == {
        (bill.user_id, kind) for kind in expected
    }
