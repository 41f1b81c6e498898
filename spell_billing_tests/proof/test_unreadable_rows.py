"""A bill that was altered to what cannot be read stops what reads it, in one sentence, and is not sent."""

import re

import pytest

from spell_billing.core.errors import IntegrityError
from spell_billing.ledger.totals import group_totals
from spell_billing.reporting.finance import INVOICES
from spell_billing_tests.proof.small_platform import MARCH, SmallPlatform

ADA, PLAN = "ada", {"plan_id": "pro"}
SQLITE_KEEPS_ANYTHING = [
    ("usage_cents = 'abc'", "'abc' where it keeps an amount"),
    ("usage_cents = '1e999999'", "'1e999999' where it keeps an amount"),
    ("usage_cents = '1e-999999'", "'1e-999999' where it keeps an amount"),
    ("unbilled_usage_cents = 'x'", "'x' where it keeps an amount"),
    ("created_at = 'yesterday'", "'yesterday' where it keeps a time"),
    ("calls = 'many'", "of id 1, month 2025-03, user_id ada (Expected `int`, got `str` - at `$.calls`)"),
    ("total_cents = 1.5", "of id 1, month 2025-03, user_id ada (Expected `int`, got `float`"),
]
BOTH_KEEP = [
    ("usage_cents = 'NaN'", "'NaN' where it keeps an amount"),
    ("usage_cents = '1e41'", "where it keeps an amount"),
    ("reason = 'because'", "of id 1, month 2025-03, user_id ada (Invalid enum value 'because'"),
    ("rating = '{'", "The bill of user ada for 2025-03 was altered"),
    ("rating = '[]'", "The bill of user ada for 2025-03 was altered"),
    ("terms = 'soon'", "The bill of user ada for 2025-03 was altered"),
    ("lines = 'none'", "The bill of user ada for 2025-03 was altered"),
    ("lines = '[1]'", "The bill of user ada for 2025-03 was altered"),
    ("lines = replace(lines, '\"700\"', '\"NaN\"')", "The bill of user ada for 2025-03 was altered"),
    ("lines = replace(lines, '\"700\"', '\"1e999999\"')", "The bill of user ada for 2025-03 was altered"),
]


def drafted(platform: SmallPlatform) -> SmallPlatform:
    """Draft a bill that charges something else than usage alone: such bills are looked at before sending."""
    platform.source.plans([{"plan_id": "pro", "name": "Pro", "included_cents": 100}])
    platform.accounts(ADA, plan_id="pro")
    platform.calls(MARCH, (ADA, 700))
    platform.draft(MARCH)
    return platform


def must_stop(platform: SmallPlatform, altered: str, says: str) -> None:
    platform.sql(f"UPDATE ledger_invoices SET {altered}")
    with pytest.raises(IntegrityError, match=re.escape(says)) as refused:
        platform.reconcile(MARCH)
    assert "backup" in refused.value.remedy
    with pytest.raises(IntegrityError):
        platform.send(MARCH)
    assert list(platform.standing()) == []


@pytest.mark.parametrize(("altered", "says"), SQLITE_KEEPS_ANYTHING + BOTH_KEEP)
def test_what_cannot_be_read_is_named_and_not_sent(
    light_platform: SmallPlatform, altered: str, says: str
) -> None:
    must_stop(drafted(light_platform), altered, says)


@pytest.mark.both_databases
@pytest.mark.parametrize(("altered", "says"), [BOTH_KEEP[0], BOTH_KEEP[2], BOTH_KEEP[6]])
def test_postgresql_too_keeps_what_cannot_be_read(platform: SmallPlatform, altered: str, says: str) -> None:
    must_stop(drafted(platform), altered, says)


@pytest.mark.parametrize(
    "altered", ["usage_cents = 'abc'", "unbilled_usage_cents = 'NaN'", "state = 'sent'", "reason = 'because'"]
)
def test_sums_of_what_cannot_be_read_are_refused(light_platform: SmallPlatform, altered: str) -> None:
    drafted(light_platform).sql(f"UPDATE ledger_invoices SET {altered}")
    with (
        light_platform.ledger() as ledger,
        ledger.reading() as connection,
        pytest.raises(IntegrityError, match="somebody altered a row by hand"),
    ):
        group_totals(connection, MARCH)


def test_an_amount_too_long_for_python_s_usual_precision_is_a_finding(light_platform: SmallPlatform) -> None:
    drafted(light_platform).sql("UPDATE ledger_invoices SET usage_cents = '1e39'")

    assert (ADA, "lines_do_not_add_up") in light_platform.findings(MARCH)


def test_a_table_for_finance_is_not_made_of_what_cannot_be_read(light_platform: SmallPlatform) -> None:
    drafted(light_platform).sql("UPDATE ledger_invoices SET calls = 'many'")
    with (
        light_platform.ledger() as ledger,
        ledger.reading() as connection,
        pytest.raises(IntegrityError, match="A row of the invoices of 2025-03 was altered"),
    ):
        INVOICES.read(connection, MARCH)
