"""Reconciliation: clean where all agrees; each difference is found, named with its user, and nothing else."""

import ast
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from importlib import resources
from pathlib import Path

import duckdb
import pytest

from spell_billing.core.errors import IntegrityError, LedgerError, StripeAccountError
from spell_billing.invoicing.findings import Kind
from spell_billing_tests.proof.small_platform import APRIL, MARCH, SmallPlatform

ONE, TWO = "user-0001", "user-0002"


def test_a_month_billed_in_peace_is_clean_and_its_sums_are_named(billed: SmallPlatform) -> None:
    result = billed.must_agree(MARCH)
    assert (result.frozen_users, result.frozen_calls, result.frozen_usage_cents) == (3, 4, Decimal(1734))
    assert (result.ledger_invoices, result.ledger_cents) == (2, 1734)
    assert (result.stripe_invoices, result.stripe_cents) == (2, 1734)
    assert result.as_json() == {
        "month": "2025-03",
        "clean": True,
        "frozen": {"users": 3, "calls": 4, "usage_cents": "1734"},
        "ledger": {
            "invoices": 2,
            "total_cents": 1734,
            "by_currency": {"usd": 1734},
            "tax_cents": 0,
            "discount_cents": 0,
        },
        "stripe": {"invoices": 2, "total_cents": 1734, "by_currency": {"usd": 1734}},
        "money": [
            {
                "currency": "usd",
                "paid_cents": 0,
                "refunded_cents": 0,
                "disputed_cents": 0,
                "kept_cents": 0,
                "due_cents": 1734,
            }
        ],
        "findings": [],
    }


def test_invoices_of_other_months_and_of_other_systems_are_not_ours(billed: SmallPlatform) -> None:
    billed.calls(APRIL, (ONE, 700))
    billed.bill(APRIL)
    billed.person_bills(f"cus_{ONE}", 999)
    billed.must_agree(MARCH)
    billed.must_agree(APRIL)


def test_reconciling_only_reads_at_stripe(billed: SmallPlatform) -> None:
    billed.sql("UPDATE ledger_invoices SET total_cents = 7 WHERE user_id = 'user-0001'")
    billed.person_bills(f"cus_{TWO}", 5, like=billed.standing()[0], finalize=False)
    writes, requests = len(billed.double.writes), len(billed.double.requests)
    before = billed.generations(MARCH, ONE), billed.generations(MARCH, TWO)
    assert billed.findings(MARCH)
    assert len(billed.double.writes) == writes
    asked = [each.operation for each in billed.double.requests[requests:]]
    assert asked == ["invoices.list", "charges.list", "disputes.list", "credit_notes.list"]
    assert (billed.generations(MARCH, ONE), billed.generations(MARCH, TWO)) == before


def test_the_outcome_stands_in_the_audit_trail(billed: SmallPlatform) -> None:
    billed.reconcile(MARCH)
    billed.sql("UPDATE ledger_invoices SET currency = 'eur' WHERE user_id = 'user-0001'")
    billed.reconcile(MARCH)
    entries = [(each["action"], each["actor"], each["detail"]) for each in billed.trail(MARCH)][-2:]
    assert entries == [
        ("reconciled", "checker", "0 differences; ledger $17.34; Stripe $17.34"),
        ("differences_found", "checker", "1 differences; ledger €12.34 and $5.00; Stripe $17.34"),
    ]


def lose_a_bill(platform: SmallPlatform) -> None:
    platform.sql("DELETE FROM ledger_invoices WHERE user_id = 'user-0003'")


def lose_an_invoiced_bill(platform: SmallPlatform) -> None:
    platform.sql("DELETE FROM ledger_invoices WHERE user_id = 'user-0001'")


def change_usage(platform: SmallPlatform) -> None:
    platform.sql("UPDATE ledger_invoices SET calls = calls + 1 WHERE user_id = 'user-0001'")


def invent_a_user(platform: SmallPlatform) -> None:
    bill = platform.bill_of(MARCH, "user-0003")
    platform.sql(f"UPDATE ledger_invoices SET user_id = 'user-0009' WHERE id = {bill.id}")


def change_a_total(platform: SmallPlatform) -> None:
    platform.sql("UPDATE ledger_invoices SET total_cents = total_cents - 1 WHERE user_id = 'user-0001'")


def change_a_line(platform: SmallPlatform) -> None:
    platform.sql(
        "UPDATE ledger_invoices SET lines = replace(lines, '1234', '1235'), total_cents = 1235 "
        "WHERE user_id = 'user-0001'"
    )


def round_wrong(platform: SmallPlatform) -> None:
    platform.sql(
        "UPDATE ledger_invoices SET usage_cents = '1235.5', lines = replace(lines, "
        '\'"usage_cents":"1234"\', \'"usage_cents":"1235.5"\') WHERE user_id = \'user-0001\''
    )


def change_the_currency(platform: SmallPlatform) -> None:
    platform.sql("UPDATE ledger_invoices SET currency = 'eur' WHERE user_id = 'user-0001'")


def change_the_customer(platform: SmallPlatform) -> None:
    platform.sql("UPDATE ledger_invoices SET stripe_customer_id = 'cus_else' WHERE user_id = 'user-0001'")


def name_an_invoice_that_is_not(platform: SmallPlatform) -> None:
    platform.sql("UPDATE ledger_invoices SET stripe_invoice_id = 'in_gone' WHERE user_id = 'user-0001'")


def copy_an_invoice(platform: SmallPlatform) -> None:
    platform.person_bills("cus_user-0001", 1234, like=platform.standing()[0])


def bill_a_stranger(platform: SmallPlatform) -> None:
    key = "spell:2025-03:user-0009:g1"
    platform.double.add_customer("cus_user-0009")
    platform.person_bills(
        "cus_user-0009", 5, spell_billing_key=key, spell_month="2025-03", spell_user_id="user-0009"
    )


def leave_a_draft(platform: SmallPlatform) -> None:
    platform.person_bills("cus_user-0001", 1234, like=platform.standing()[0], finalize=False)


def void_by_hand(platform: SmallPlatform) -> None:
    platform.person_voids(platform.bill_of(MARCH, ONE).stripe_invoice_id)


def void_in_the_ledger_only(platform: SmallPlatform) -> None:
    platform.sql("UPDATE ledger_invoices SET state = 'void', reason = 'voided' WHERE user_id = 'user-0001'")


def fail_a_bill(platform: SmallPlatform) -> None:
    platform.sql(
        "UPDATE ledger_invoices SET state = 'failed', reason = 'unknown_customer', total_cents = 0 "
        "WHERE user_id = 'user-0003'"
    )


@pytest.mark.parametrize(
    ("happening", "expected"),
    [
        (lose_a_bill, [("user-0003", "missing_in_ledger")]),
        (lose_an_invoiced_bill, [(ONE, "missing_in_ledger"), (ONE, "unknown_to_ledger")]),
        (change_usage, [(ONE, "usage_differs")]),
        (invent_a_user, [("user-0003", "missing_in_ledger"), ("user-0009", "usage_differs")]),
        (change_a_total, [(ONE, "amount_differs"), (ONE, "lines_do_not_add_up")]),
        (change_a_line, [(ONE, "amount_differs"), (ONE, "lines_do_not_add_up")]),
        (round_wrong, [(ONE, "lines_do_not_add_up"), (ONE, "usage_differs")]),
        (change_the_currency, [(ONE, "currency_differs")]),
        (change_the_customer, [(ONE, "customer_differs")]),
        (name_an_invoice_that_is_not, [(ONE, "missing_at_stripe"), (ONE, "unknown_to_ledger")]),
        (copy_an_invoice, [(ONE, "two_for_one_user"), (ONE, "unknown_to_ledger")]),
        (bill_a_stranger, [("user-0009", "unknown_to_ledger")]),
        (leave_a_draft, [(ONE, "draft_left")]),
        (void_by_hand, [(ONE, "void_at_stripe")]),
        (void_in_the_ledger_only, [(ONE, "stands_at_stripe")]),
        (fail_a_bill, [("user-0003", "not_invoiced")]),
    ],
)
def test_what_differs_is_found_and_nothing_else(
    light_billed: SmallPlatform, happening: Callable[[SmallPlatform], None], expected: list[tuple[str, str]]
) -> None:
    happening(light_billed)
    assert light_billed.findings(MARCH) == expected
    assert light_billed.trail(MARCH)[-1]["action"] == (
        "reconciled" if happening is fail_a_bill else "differences_found"
    )


def test_every_difference_is_found_beside_the_others(billed: SmallPlatform) -> None:
    bill_a_stranger(billed)
    lose_a_bill(billed)
    void_in_the_ledger_only(billed)
    billed.sql("UPDATE ledger_invoices SET stripe_customer_id = 'cus_else' WHERE user_id = 'user-0002'")
    billed.person_bills(f"cus_{TWO}", 500, like=billed.standing()[1], finalize=False)
    assert billed.findings(MARCH) == [
        (ONE, "stands_at_stripe"),
        (TWO, "customer_differs"),
        (TWO, "draft_left"),
        ("user-0003", "missing_in_ledger"),
        ("user-0009", "unknown_to_ledger"),
    ]


def test_metadata_that_was_cleared_and_money_that_went_back_are_named(billed: SmallPlatform) -> None:
    billed.double.advance()
    billed.sql("UPDATE ledger_invoices SET state = 'paid' WHERE stripe_invoice_id IS NOT NULL")
    one, two = (str(billed.bill_of(MARCH, user).stripe_invoice_id) for user in (ONE, TWO))
    billed.person("POST", f"/v1/invoices/{one}", {"metadata": ""})
    charge = next(each for each in billed.double.state.charges if each.invoice == two)
    billed.person("POST", "/v1/refunds", {"charge": charge.id, "amount": 1})

    assert billed.findings(MARCH) == [(ONE, "metadata_differs"), (TWO, "money_differs")]


def test_every_kind_of_finding_is_made_by_a_test() -> None:
    names = (Path(__file__).name, "test_reconcile_history.py", "test_altered_grants.py", "test_plans.py")
    files = [Path(__file__).with_name(name) for name in names]
    payments = Path(__file__).parents[1] / "payments"
    files += [payments / name for name in ("test_given_back_twice.py", "test_came_back.py")]
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    assert [kind for kind in Kind if f'"{kind.value}"' not in text] == []


@pytest.mark.both_databases
def test_two_generations_that_both_stand_are_two_for_one_user(billed: SmallPlatform) -> None:
    first = billed.bill_of(MARCH, ONE)
    billed.void(MARCH, ONE)
    billed.bill(MARCH)
    account = billed.double.state
    voided = account.invoices.get(str(first.stripe_invoice_id))
    account.put_invoice(replace(voided, status="open"))
    result = billed.reconcile(MARCH)
    assert sorted(each.kind for each in result.findings) == ["stands_at_stripe", "two_for_one_user"]
    assert {each.user_id for each in result.findings} == {ONE}
    (twins,) = (each for each in result.findings if each.kind is Kind.TWO_FOR_ONE_USER)
    assert str(first.stripe_invoice_id) in twins.found
    assert str(billed.bill_of(MARCH, ONE).stripe_invoice_id) in twins.found


def test_a_finding_names_both_sides(billed: SmallPlatform) -> None:
    change_a_total(billed)
    by_kind = {each.kind: each for each in billed.reconcile(MARCH).findings}
    found = by_kind[Kind.AMOUNT_DIFFERS]
    assert (found.expected, found.found) == ("1233", "1234")
    assert found.as_json() == {
        "kind": "amount_differs",
        "user_id": ONE,
        "stripe_invoice_id": billed.bill_of(MARCH, ONE).stripe_invoice_id,
        "expected": "1233",
        "found": "1234",
        "remedy": found.remedy,
    }


@pytest.mark.both_databases
def test_sums_that_are_not_what_was_aggregated_prove_nothing(billed: SmallPlatform) -> None:
    frozen = billed.store.latest(MARCH)
    assert frozen is not None
    path = frozen.directory / "user_usage.parquet"
    before = billed.trail(MARCH)
    duckdb.execute(
        f"COPY (SELECT user_id, calls, CASE user_id WHEN 'user-0002' THEN cost_cents + 1 ELSE cost_cents END "
        f"AS cost_cents FROM read_parquet('{path}')) TO '{path}.new' (FORMAT parquet)"
    )
    Path(f"{path}.new").rename(path)
    with pytest.raises(IntegrityError, match=r"user_usage\.parquet is not what was aggregated"):
        billed.reconcile(MARCH)
    assert billed.trail(MARCH) == before


def test_a_month_that_was_never_drafted_is_refused(billed: SmallPlatform) -> None:
    with pytest.raises(LedgerError, match="2025-04 has no drafts"):
        billed.reconcile(APRIL)


def test_when_stripe_does_not_answer_nothing_is_claimed(light_billed: SmallPlatform) -> None:
    before = light_billed.trail(MARCH)
    light_billed.double.arm("lost_before", operation="invoices.list", times=99)
    with pytest.raises(StripeAccountError, match="Stripe cannot be asked what stands for 2025-03"):
        light_billed.reconcile(MARCH)
    assert light_billed.trail(MARCH) == before


def test_the_comparison_shares_no_code_with_what_it_compares() -> None:
    source = resources.files("spell_billing.invoicing").joinpath("reconcile.py").read_text(encoding="utf-8")
    imported = {
        node.module
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and node.module
    }
    assert not any(
        isinstance(node, ast.Import) and "spell" in ast.dump(node) for node in ast.walk(ast.parse(source))
    )
    billing = {"drive", "sweep", "requests", "lookups", "bill_month", "commits", "draft_month", "void"}
    assert imported & {f"spell_billing.invoicing.{name}" for name in billing} == set()
    assert "spell_billing.invoicing" not in imported
