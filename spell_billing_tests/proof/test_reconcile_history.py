"""Reconciliation knows the past: credits, allowances, late usage and approvals, each to the cent."""

import re
from collections.abc import Callable

import pytest

from spell_billing.core.errors import IntegrityError
from spell_billing.core.lines import Line, dump_lines, lines_hash, load_lines
from spell_billing.core.month import Month
from spell_billing.invoicing.guards import what_is_unsound
from spell_billing.ledger.queries import drafts_hash
from spell_billing.ledger.reviews import write_review
from spell_billing_tests.proof.small_platform import APRIL, MARCH, MAY, SmallPlatform

ONE, TWO, PLAN = "user-0001", "user-0002", "user-0003"


@pytest.fixture
def past(light_platform: SmallPlatform) -> SmallPlatform:
    """Bill March and April: a credit is granted and used, a plan covers usage, usage comes late."""
    light_platform.source.plans([{"plan_id": "pro", "name": "Pro", "included_cents": 100}])
    light_platform.accounts(ONE, TWO)
    light_platform.accounts(PLAN, plan_id="pro")
    light_platform.calls(MARCH, (ONE, -500), (TWO, 300), (PLAN, 70))
    light_platform.bill(MARCH)
    light_platform.calls(MARCH, (TWO, 40), (PLAN, 90))
    light_platform.calls(APRIL, (ONE, 900), (TWO, 800), (PLAN, 250))
    light_platform.bill(APRIL)
    for month in (MARCH, APRIL):
        light_platform.must_agree(month)
    return light_platform


def alter(platform: SmallPlatform, user: str, change: Callable[[list[Line]], list[Line]]) -> None:
    """Change the lines of the user's bill of April behind the ledger's back, its columns with them."""
    lines = change(list(load_lines(platform.bill_of(APRIL, user).lines)))
    columns = {
        "total_cents": sum(line.amount_cents for line in lines),
        "covered_cents": -sum(line.amount_cents for line in lines if line.kind == "included"),
        "late_cents": sum(line.amount_cents for line in lines if line.kind == "late_usage"),
        "credit_applied_cents": -sum(line.amount_cents for line in lines if line.kind == "credit"),
        "late_lines": sum(1 for line in lines if line.kind == "late_usage"),
    }
    sets = ", ".join(f"{name} = {cents}" for name, cents in columns.items())
    text = dump_lines(lines).replace("'", "''")
    platform.sql(
        f"UPDATE ledger_invoices SET lines = '{text}', {sets} WHERE month = '2025-04' AND user_id = '{user}'"
    )


def twice(kind: str) -> Callable[[list[Line]], list[Line]]:
    return lambda lines: [*lines, *(line for line in lines if line.kind == kind)]


def without(kind: str) -> Callable[[list[Line]], list[Line]]:
    return lambda lines: [line for line in lines if line.kind != kind]


def told(platform: SmallPlatform) -> dict[tuple[str, str], tuple[str, str]]:
    return {
        (each.user_id, each.kind): (each.expected, each.found) for each in platform.reconcile(APRIL).findings
    }


def test_a_credit_applied_twice_is_named_to_the_cent(past: SmallPlatform) -> None:
    alter(past, ONE, twice("credit"))
    assert told(past)[ONE, "credit_not_granted"] == ("$5.00 of credits granted", "$10.00 used")


def test_a_credit_applied_again_in_another_month_is_named_to_the_cent(past: SmallPlatform) -> None:
    past.calls(MAY, (ONE, 900))
    past.bill(MAY)
    past.sql(
        f"UPDATE ledger_invoices SET credit_applied_cents = 300 WHERE month = '2025-05' AND user_id = '{ONE}'"
    )
    assert told(past)[ONE, "credit_not_granted"] == ("$5.00 of credits granted", "$8.00 used")


def test_a_credit_used_before_it_was_granted_is_named_to_the_cent(past: SmallPlatform) -> None:
    past.sql(
        "UPDATE ledger_invoices SET carried_cents = 0 WHERE month = '2025-03' AND user_id = 'user-0001'",
        "UPDATE ledger_invoices SET carried_cents = 500 WHERE month = '2025-04' AND user_id = 'user-0001'",
    )
    assert told(past)[ONE, "credit_not_granted"] == (
        "$0.00 of credits granted before 2025-04",
        "$5.00 used",
    )


def test_a_doubled_credit_line_is_named_although_its_column_is_empty(past: SmallPlatform) -> None:
    alter(past, ONE, twice("credit"))
    past.sql("UPDATE ledger_invoices SET credit_applied_cents = 0 WHERE month = '2025-04'")
    found = {(each.expected, each.found) for each in past.reconcile(APRIL).findings if each.user_id == ONE}
    assert ("credit_applied_cents 0", "lines 1000") in found


def test_a_deleted_bill_of_a_user_with_late_usage_alone_is_named(light_platform: SmallPlatform) -> None:
    light_platform.accounts(ONE, TWO)
    light_platform.calls(MARCH, (ONE, 500), (TWO, 300))
    light_platform.bill(MARCH)
    light_platform.calls(MARCH, (TWO, 40))
    light_platform.calls(APRIL, (ONE, 900))
    light_platform.bill(APRIL)
    light_platform.sql(f"DELETE FROM ledger_invoices WHERE month = '2025-04' AND user_id = '{TWO}'")
    assert told(light_platform)[TWO, "late_usage_differs"] == (
        "1 late calls of 2025-03, 40 cents",
        "no bill",
    )


def test_an_allowance_applied_twice_or_not_at_all_is_named_to_the_cent(past: SmallPlatform) -> None:
    alter(past, PLAN, twice("included"))
    assert told(past)[PLAN, "allowance_differs"] == ("$1.00 covered by the plan", "$2.00")
    alter(past, PLAN, without("included"))
    assert told(past)[PLAN, "allowance_differs"] == ("$1.00 covered by the plan", "$0.00")


def test_a_late_line_that_was_not_recorded_or_is_missing_is_named(past: SmallPlatform) -> None:
    alter(past, TWO, twice("late_usage"))
    expected, found = told(past)[TWO, "late_usage_differs"]
    assert {expected, found} & {"1 late calls of 2025-03, 40 cents", "$3.40 charged for 2025-03 in all"}
    alter(past, TWO, without("late_usage"))
    assert told(past)[TWO, "late_usage_differs"] == ("1 late calls of 2025-03, 40 cents", "0 calls, 0 cents")


def test_a_late_line_with_another_amount_is_named_to_the_cent(past: SmallPlatform) -> None:
    past.sql(
        "UPDATE ledger_invoices SET lines = replace(lines, '\"amount_cents\":60', '\"amount_cents\":90'), "
        f"late_cents = 90, total_cents = total_cents + 30 WHERE month = '2025-04' AND user_id = '{PLAN}'"
    )
    assert told(past)[PLAN, "late_usage_differs"] == ("$0.60 charged for 2025-03 in all", "$0.90")


def test_what_was_changed_and_changes_no_amount_is_named_too(past: SmallPlatform) -> None:
    past.sql(
        "UPDATE ledger_invoices SET lines = replace(lines, 'Late usage', 'Later usage') "
        f"WHERE month = '2025-04' AND user_id = '{TWO}'"
    )
    assert {kind for _, kind in told(past)} == {"lines_differ", "content_altered"}


def test_a_month_sent_without_its_approval_is_named(past: SmallPlatform) -> None:
    past.sql(
        "DELETE FROM ledger_reviews",
        "INSERT INTO ledger_reviews (month, drafts_hash, findings, reviewed_at) "
        "VALUES ('2025-04', 'abc', '[{\"text\": \"x\"}]', '2025-05-01 00:00:00')",
    )
    assert told(past) == {("every user", "not_approved"): ("an approval of the drafts abc", "none")}


def test_what_was_sent_is_what_was_reviewed(past: SmallPlatform) -> None:
    with past.ledger() as ledger, ledger.writing() as connection:
        reviewed = drafts_hash(connection, Month(2025, 4))
        write_review(connection, APRIL, drafts_hash=reviewed, findings=[], now=APRIL.end)
    past.must_agree(APRIL)
    past.sql(
        "UPDATE ledger_invoices SET lines_hash = 'f' || substr(lines_hash, 2) "
        f"WHERE month = '2025-04' AND user_id = '{TWO}'"
    )
    assert told(past)["every user", "not_approved"][0] == f"the drafts {reviewed[:12]}, as reviewed"


@pytest.mark.parametrize(
    ("user", "sets", "said"),
    [
        (ONE, "credit_applied_cents = credit_applied_cents + 300", r"\$5.00 of credits granted, \$8.00 used"),
        (PLAN, "covered_cents = 200", "is not what was drafted: covered_cents 200, lines 100"),
        (TWO, "total_cents = total_cents - 1", "is not what was drafted"),
        (
            PLAN,
            "included_cents = 900, covered_cents = 900",
            r"is not what was drafted: \$2.50 covered by the plan, \$1.00",
        ),
        (ONE, "credit_applied_cents = 0", "is not what was drafted"),
        (TWO, "lines = replace(lines, '800', '700'), total_cents = 740", "is not what was drafted"),
    ],
)
def test_drafts_that_were_altered_are_not_sent(
    light_platform: SmallPlatform, user: str, sets: str, said: str
) -> None:
    light_platform.source.plans([{"plan_id": "pro", "name": "Pro", "included_cents": 100}])
    light_platform.accounts(ONE, TWO)
    light_platform.accounts(PLAN, plan_id="pro")
    light_platform.calls(MARCH, (ONE, -500), (TWO, 300), (PLAN, 70))
    light_platform.bill(MARCH)
    light_platform.calls(MARCH, (TWO, 40))
    light_platform.calls(APRIL, (ONE, 900), (TWO, 800), (PLAN, 250))
    light_platform.draft(APRIL)
    light_platform.sql(
        "CREATE TRIGGER altered AFTER INSERT ON ledger_invoices WHEN new.month = '2025-04' AND "
        f"new.user_id = '{user}' BEGIN UPDATE ledger_invoices SET {sets} WHERE id = new.id; END"
    )
    before = len(light_platform.double.writes)
    with pytest.raises(IntegrityError, match=said):
        light_platform.bill(APRIL)
    assert len(light_platform.double.writes) == before
    # The check that follows the drafting says the same, of what charges more than usage by its columns.
    with light_platform.ledger() as ledger:
        unsound = ledger.read(what_is_unsound, APRIL)
    assert re.search(said, unsound) if unsound else sets == "credit_applied_cents = 0"


def test_a_bill_that_was_altered_after_the_review_is_not_sent(light_platform: SmallPlatform) -> None:
    light_platform.accounts(ONE, TWO)
    light_platform.calls(MARCH, (ONE, 500), (TWO, 300))
    light_platform.draft(MARCH)
    with light_platform.ledger() as ledger, ledger.writing() as connection:
        write_review(
            connection, MARCH, drafts_hash=drafts_hash(connection, MARCH), findings=[], now=MARCH.end
        )
    bill = light_platform.bill_of(MARCH, TWO)
    lines = [*bill.parsed_lines, Line("late_usage", "Late usage", 50, "2025-02", 1, "50")]
    fingerprint = lines_hash(str(bill.stripe_customer_id), "usd", bill.description, lines)
    light_platform.sql(
        f"UPDATE ledger_invoices SET lines = '{dump_lines(lines)}', lines_hash = '{fingerprint}', "
        f"late_lines = 1, late_cents = 50, total_cents = 350 WHERE user_id = '{TWO}'"
    )

    with pytest.raises(IntegrityError, match="The bills of 2025-03 are not those that were reviewed"):
        light_platform.send(MARCH)
    assert not light_platform.double.writes


def test_a_month_in_review_is_one_finding_not_one_for_each_user(light_platform: SmallPlatform) -> None:
    light_platform.accounts(ONE, TWO)
    light_platform.calls(MARCH, (ONE, 500), (TWO, 300))
    light_platform.draft(MARCH)
    assert light_platform.findings(MARCH) == [(ONE, "not_invoiced"), (TWO, "not_invoiced")]
    with light_platform.ledger() as ledger, ledger.writing() as connection:
        reviewed = drafts_hash(connection, MARCH)
        write_review(connection, MARCH, drafts_hash=reviewed, findings=[{"text": "x"}], now=MARCH.end)

    assert light_platform.findings(MARCH) == [("every user", "in_review")]
