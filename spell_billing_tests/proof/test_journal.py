"""A month in double entry: every kind of line and payment has its accounts, and what is altered shows."""

from pathlib import Path

import pytest

from spell_billing.core import lines
from spell_billing.ledger.money_tables import payments
from spell_billing.ledger.schema import invoices
from spell_billing.reporting.journal import _ACCOUNT_OF, Account, Entry, read_journal
from spell_billing_tests.proof.small_platform import APRIL, MARCH, SmallPlatform

ONE, TWO, LATE = "user-0001", "user-0002", "late"


def booked(platform: SmallPlatform, month: object) -> dict[tuple[str, str], int]:
    """Give debits (above zero) and credits by entry and account."""
    with platform.ledger() as ledger, ledger.reading() as connection:
        postings = read_journal(connection, month)  # type: ignore[arg-type]
    assert all(each.debit_cents >= 0 and each.credit_cents >= 0 for each in postings)
    return {(str(each.entry), str(each.account)): each.debit_cents - each.credit_cents for each in postings}


def test_every_kind_of_line_has_an_account_or_no_amount() -> None:
    kinds = {value for name, value in vars(lines).items() if name.isupper() and isinstance(value, str)}

    assert kinds - _ACCOUNT_OF.keys() == {lines.GRANT, lines.UNBILLED, lines.MOVED, lines.FEE_NOTE}


@pytest.mark.both_databases
def test_invoices_credits_and_late_usage_are_booked_in_the_month_that_billed_them(
    platform: SmallPlatform,
) -> None:
    platform.accounts(ONE, TWO, LATE)
    platform.calls(MARCH, (ONE, 1000), (TWO, -300), (LATE, 50))
    platform.bill(MARCH)
    platform.calls(MARCH, (LATE, 125))
    platform.calls(APRIL, (ONE, 200), (TWO, 500), (LATE, 110))
    platform.bill(APRIL)

    assert booked(platform, MARCH) == {
        ("invoices", "receivable"): 1050,
        ("invoices", "usage_revenue"): -1050,
        ("without_invoice", "usage_revenue"): 300,
        ("without_invoice", "carried_amounts"): -300,
    }
    # What refunds left to a user in March is used up in April.
    assert booked(platform, APRIL) == {
        ("invoices", "receivable"): 200 + 200 + 235,
        ("invoices", "usage_revenue"): -(200 + 500 + 235),
        ("invoices", "carried_amounts"): 300,
    }
    assert platform.imbalances(MARCH) == platform.imbalances(APRIL) == []


def test_a_total_or_a_payment_that_was_altered_does_not_balance(light_platform: SmallPlatform) -> None:
    light_platform.accounts(ONE, TWO)
    # Of so little Stripe charges nothing: it moves it to the next invoice.
    light_platform.calls(MARCH, (ONE, 1000), (TWO, 20))
    light_platform.bill(MARCH)
    assert light_platform.imbalances(MARCH) == []
    with light_platform.ledger() as ledger, ledger.writing() as connection:
        connection.execute(invoices.update().where(invoices.c.user_id == ONE).values(total_cents=1001))
        connection.execute(payments.update().values(moved_cents=18))

    assert light_platform.imbalances(MARCH) == [
        "invoices in usd: debits exceed credits by 1 minor units.",
        "receivable in usd: 1003 minor units by the journal, 1001 are open at Stripe.",
    ]


def test_every_account_and_entry_is_explained_in_the_docs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "finance.md").read_text()

    assert [each for each in (*Account, *Entry) if f"`{each}`" not in page] == []
