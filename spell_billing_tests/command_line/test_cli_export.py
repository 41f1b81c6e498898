"""A month as files for finance, and as DataFrames: exact, complete, and no formula for a spreadsheet."""

import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from spell_billing import frames
from spell_billing.core.errors import MonthError
from spell_billing.reporting.finance import remove_naming

MARCH = "2025-03"
FORMULA = "=1+1"
EXAMPLE = Path(__file__).parents[2] / "examples" / "revenue" / "revenue.py"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shop(make_shop: Callable[[str], Any], request: pytest.FixtureRequest) -> Any:
    """Bill a month in which a user has no account, and another an id that is a formula."""
    opened = make_shop(request.param)
    opened.accounts("ada", FORMULA)
    opened.calls(MARCH, ("ada", 1000), ("ada", 234), (FORMULA, 500), ("nobody", 7))
    assert opened.run("init-db").returncode == 0
    assert opened.run("bill", "--month", MARCH).returncode == 3
    return opened


def test_files_and_frames_hold_every_bill_and_a_journal_that_balances(shop: Any) -> None:
    exported = shop.run("export", "--month", MARCH, "--to", "out")
    assert exported.returncode == 0, exported.stderr
    folder = shop.home / "out" / MARCH

    assert sorted(path.name for path in folder.iterdir()) == [
        f"{name}.{ending}" for name in ("invoices", "journal", "payments") for ending in ("csv", "parquet")
    ]
    frame = frames.invoices(MARCH, database_url=shop.url)
    kept = pd.read_parquet(folder / "invoices.parquet", dtype_backend="pyarrow")
    pd.testing.assert_frame_equal(kept, frame)
    assert frame.dtypes["total_cents"] == pd.ArrowDtype(pa.int64())
    by_user = frame.set_index("user_id")
    assert dict(by_user["invoice_cents"]) == {FORMULA: 500, "ada": 1234, "nobody": 7}
    assert by_user["usage_cents"]["ada"] == Decimal(1234)
    assert by_user["reason"]["nobody"] == "no_billing_account"
    rows = (folder / "invoices.csv").read_text("utf-8-sig").splitlines()
    assert f'"{MARCH}","\'{FORMULA}",1,"finalized",' in "\n".join(rows)
    journal = frames.journal(MARCH, database_url=shop.url)
    assert journal["debit_cents"].sum() == journal["credit_cents"].sum() == 1734
    assert len(frames.payments("2025-02", database_url=shop.url)) == 0
    with pytest.raises(MonthError):
        frames.journal("March", database_url=shop.url)


def test_a_month_without_drafts_and_a_folder_that_is_none_are_refused_in_a_sentence(shop: Any) -> None:
    unknown = shop.run("export", "--month", "2025-02", "--to", "never")
    (shop.home / "file").write_text("")
    no_folder = shop.run("export", "--month", MARCH, SPELL_BILLING_EXPORTS=str(shop.home / "file"))

    assert (unknown.returncode, no_folder.returncode) == (1, 1)
    assert "2025-02 has no bills: it was never drafted in this ledger." in unknown.stderr
    assert not (shop.home / "never").exists()
    assert "cannot be written to: Not a directory" in no_folder.stderr


def test_files_that_name_a_user_are_removed_whichever_table_of_the_month_is_there(
    shop: Any, tmp_path: Path
) -> None:
    assert shop.run("export", "--month", MARCH, "--to", str(tmp_path)).returncode == 0
    assert remove_naming("somebody", tmp_path) == []
    # As when an earlier removal was cut off.
    (tmp_path / MARCH / "invoices.parquet").unlink()
    (tmp_path / MARCH / "payments.parquet").write_bytes(b"damaged")

    assert remove_naming("ada", tmp_path) == [MARCH]
    assert list((tmp_path / MARCH).iterdir()) == []


def test_the_example_draws_the_revenue_of_the_months(shop: Any) -> None:
    drawn = subprocess.run(
        [sys.executable, str(EXAMPLE), "--last", MARCH, "--months", "2"],
        cwd=shop.home,
        env=shop.environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert drawn.returncode == 0, drawn.stderr
    assert "1734" in drawn.stdout
    assert "<svg" in (shop.home / "revenue.svg").read_text()


def test_a_journal_that_does_not_balance_ends_with_3(shop: Any) -> None:
    shop.execute("UPDATE ledger_invoices SET total_cents = 1235 WHERE user_id = 'ada'")
    exported = shop.run("export", "--month", MARCH, SPELL_BILLING_EXPORTS=str(shop.home / "set"))
    shop.execute("UPDATE ledger_invoices SET total_cents = 1234 WHERE user_id = 'ada'")

    assert exported.returncode == 3
    assert exported.stderr == "invoices in usd: debits exceed credits by 1 minor units.\n"
    assert (shop.home / "set" / MARCH / "journal.csv").exists()
