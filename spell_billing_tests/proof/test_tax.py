"""Tax stands beside the total: kept with the bill, compared with Stripe, left out where none is computed."""

import logging
from dataclasses import replace
from typing import Any

import pytest

from spell_billing.core.outcomes import Reason, State
from spell_billing.core.terms import ENFORCED, LEFT_OUT, OFF, ON, Policy
from spell_billing.invoicing.report import BillingReport
from spell_billing.reporting.status import month_status
from spell_billing_tests.proof.small_platform import APRIL, MARCH, MAY, NOW, SmallPlatform

ONE, TWO, THREE = "user-0001", "user-0002", "user-0003"


def users_with_tax(platform: SmallPlatform, setting: str, **rates: str) -> SmallPlatform:
    """Bill under the setting; give each user the tax rate in per cent, or `unplaced`."""
    platform.policy = Policy(setting)
    for user, rate in zip((ONE, TWO, THREE), rates.values(), strict=False):
        platform.accounts(user)
        platform.double.add_customer(f"cus_{user}", metadata={"double_tax": rate})
    return platform


def status(platform: SmallPlatform) -> dict[str, Any]:
    with platform.ledger() as ledger:
        return month_status(ledger, MARCH, NOW).as_json()


def test_tax_is_on_the_invoice_and_beside_the_total_in_the_ledger(platform: SmallPlatform) -> None:
    users_with_tax(platform, ON, one="19", two="0")
    platform.calls(MARCH, (ONE, 1000), (TWO, 500))
    assert platform.bill(MARCH).invoiced == 2

    taxed, untaxed = platform.standing()
    assert (taxed.total_cents, taxed.tax_cents, untaxed.total_cents) == (1190, 190, 500)
    bill = platform.bill_of(MARCH, ONE)
    assert (bill.total_cents, bill.tax_cents, bill.invoice_cents) == (1000, 190, 1190)
    # No tax is due: that is no invoice without tax.
    assert (platform.bill_of(MARCH, TWO).tax_cents, platform.bill_of(MARCH, TWO).without_tax) == (0, None)
    result = platform.must_agree(MARCH)
    assert (result.ledger_cents, result.ledger_tax_cents, result.stripe_cents) == (1690, 190, 1690)
    told = status(platform)
    assert (told["total_cents"], told["tax_cents"], told["without_tax"]) == (1500, 190, 0)
    story = platform.explain(MARCH, ONE)
    assert "of $11.90" in story["answer"]
    assert (story["bills"][0]["total_cents"], story["bills"][0]["tax_cents"]) == (1000, 190)


def test_without_the_setting_nothing_is_asked_and_nothing_is_kept(platform: SmallPlatform) -> None:
    users_with_tax(platform, OFF, one="19")
    platform.calls(MARCH, (ONE, 1000))
    platform.bill(MARCH)

    bill = platform.bill_of(MARCH, ONE)
    assert (bill.terms, bill.tax_cents, platform.standing()[0].tax_cents) == (None, None, 0)
    platform.must_agree(MARCH)


def test_a_changed_setting_changes_no_bill_that_is_drafted(platform: SmallPlatform) -> None:
    users_with_tax(platform, ON, one="19", two="19")
    platform.calls(MARCH, (ONE, 1000), (TWO, 500))
    platform.draft(MARCH)
    # The run is cut off in the middle, and the setting is another one when the next run begins.
    platform.double.arm("lost_after", operation="invoices.add_lines", times=3)
    platform.send(MARCH)
    platform.double.disarm()
    platform.policy = Policy(OFF)
    platform.bill(MARCH)

    assert [each.tax_cents for each in platform.standing()] == [190, 95]
    platform.must_agree(MARCH)


def test_a_bill_with_a_negative_line_is_sent_without_tax_and_told(
    platform: SmallPlatform, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    users_with_tax(platform, ENFORCED, one="19", two="19")
    platform.calls(MARCH, (ONE, -300), (TWO, 500))
    platform.bill(MARCH)
    platform.calls(APRIL, (ONE, 1000), (TWO, 500))
    platform.bill(APRIL)

    bill = platform.bill_of(APRIL, ONE)
    assert (bill.total_cents, bill.tax_cents, bill.without_tax) == (700, None, "negative_line")
    assert bill.parsed_terms.tax == LEFT_OUT
    assert platform.bill_of(APRIL, TWO).tax_cents == 95
    assert platform.explain(APRIL, ONE)["bills"][0]["without_tax"] == "negative_line"
    platform.must_agree(APRIL)
    report = BillingReport(logging.getLogger("told"), to_drive=2)
    for user in (ONE, TWO):
        report.invoiced(platform.bill_of(APRIL, user))
    report.completed(platform.bill(APRIL), [])
    said = [each for each in caplog.records if each.name == "told"]
    (warning,) = (each.getMessage() for each in said if each.levelname == "WARNING")
    assert warning == (
        f"Invoiced without tax, because Stripe computes none for an invoice with a negative line: {ONE}"
    )


def test_a_customer_who_cannot_be_placed_is_billed_without_tax_and_told(platform: SmallPlatform) -> None:
    users_with_tax(platform, ON, one="unplaced", two="19")
    platform.calls(MARCH, (ONE, 1000), (TWO, 500))
    assert platform.bill(MARCH).unfinished == {}

    bill = platform.bill_of(MARCH, ONE)
    assert (bill.state, bill.tax_cents, bill.without_tax) == (State.FINALIZED, None, "not_placed")
    assert "tax_left_out" in {each["action"] for each in platform.trail(MARCH, ONE)}
    assert status(platform)["without_tax"] == 1
    platform.must_agree(MARCH)


@pytest.mark.parametrize("operation", ["invoices.update", "invoices.finalize"])
@pytest.mark.parametrize("fault", ["lost_before", "lost_after", "error_500_before", "error_500_after"])
def test_leaving_the_tax_out_survives_what_goes_wrong(
    light_platform: SmallPlatform, fault: str, operation: str
) -> None:
    platform = users_with_tax(light_platform, ON, one="unplaced")
    platform.calls(MARCH, (ONE, 1000))
    # Finalization is refused first, then tried again without tax.
    for nth in (1, 2) if operation == "invoices.finalize" else (1,):
        platform.double.arm(fault, operation=operation, nth=nth, times=1)
    for _ in range(3):
        if not platform.bill(MARCH).unfinished:
            break
    platform.double.disarm()
    platform.bill(MARCH)

    assert platform.bill_of(MARCH, ONE).without_tax == "not_placed"
    assert len(platform.standing()) == 1
    platform.must_agree(MARCH)


def test_a_run_that_is_cut_off_after_the_tax_was_left_out_is_completed_by_the_next(
    light_platform: SmallPlatform,
) -> None:
    platform = users_with_tax(light_platform, ON, one="unplaced")
    platform.calls(MARCH, (ONE, 1000))
    for nth in range(2, 2 + platform.tries):
        platform.double.arm("lost_before", operation="invoices.finalize", nth=nth)
    assert platform.bill(MARCH).unfinished
    platform.double.disarm()
    assert platform.bill(MARCH).invoiced == 1

    assert platform.bill_of(MARCH, ONE).without_tax == "not_placed"
    platform.must_agree(MARCH)


def test_where_tax_is_enforced_such_a_customer_fails_by_name_until_the_address_is_there(
    platform: SmallPlatform,
) -> None:
    users_with_tax(platform, ENFORCED, one="unplaced", two="19")
    platform.calls(MARCH, (ONE, 1000), (TWO, 500))
    assert platform.bill(MARCH).invoiced == 1
    failed = platform.bill_of(MARCH, ONE)
    assert (failed.state, failed.reason) == (State.FAILED, Reason.TAX_LOCATION)
    assert [each.status for each in platform.double.invoices()] == ["open"]

    platform.double.add_customer(f"cus_{ONE}", metadata={"double_tax": "7"})
    platform.bill(MARCH)
    assert platform.bill_of(MARCH, ONE).tax_cents == 70
    platform.must_agree(MARCH)


def test_an_invoice_whose_tax_a_person_switched_off_is_not_finalized_where_tax_is_enforced(
    light_platform: SmallPlatform,
) -> None:
    platform = users_with_tax(light_platform, ENFORCED, one="19")
    platform.calls(MARCH, (ONE, 1000))

    def switch_off(_record: object) -> None:
        for invoice in platform.double.invoices():
            if invoice.status == "draft":
                platform.double.state.put_invoice(
                    replace(invoice, automatic_tax=False, tax_status=None, tax_cents=0, total_cents=0)
                )

    platform.double.arm("none", operation="invoices.add_lines", before_effect=switch_off, times=1)
    platform.bill(MARCH)

    assert [each.tax_cents for each in platform.standing()] == [190]
    assert platform.bill_of(MARCH, ONE).tax_cents == 190
    platform.must_agree(MARCH)


def test_a_lost_ledger_gets_total_and_tax_back(platform: SmallPlatform) -> None:
    users_with_tax(platform, ON, one="19", two="unplaced")
    platform.calls(MARCH, (ONE, 1000), (TWO, 500))
    platform.bill(MARCH)
    for setting in (ON, OFF):
        platform.policy = Policy(setting)
        platform.lose_the_ledger()
        assert platform.bill(MARCH).sweep.adopted == 2

        bill = platform.bill_of(MARCH, ONE)
        assert (bill.total_cents, bill.tax_cents) == (1000, 190)
        assert platform.bill_of(MARCH, TWO).total_cents == 500
        platform.must_agree(MARCH)
    assert len(platform.standing()) == 2


def test_late_usage_and_a_bill_that_is_voided_count_before_tax(platform: SmallPlatform) -> None:
    users_with_tax(platform, ON, one="19")
    platform.calls(MARCH, (ONE, 1000))
    platform.bill(MARCH)
    platform.calls(MARCH, (ONE, 100))
    platform.calls(APRIL, (ONE, 500))
    platform.bill(APRIL)
    platform.void(APRIL, ONE)
    platform.bill(APRIL)
    platform.calls(MAY, (ONE, 200))
    platform.bill(MAY)

    assert [platform.bill_of(month, ONE).total_cents for month in (MARCH, APRIL, MAY)] == [1000, 600, 200]
    assert [platform.bill_of(month, ONE).tax_cents for month in (MARCH, APRIL, MAY)] == [190, 114, 38]
    for month in (MARCH, APRIL, MAY):
        platform.must_agree(month)


def test_altered_tax_is_found(light_platform: SmallPlatform) -> None:
    platform = users_with_tax(light_platform, ON, one="19")
    platform.calls(MARCH, (ONE, 1000))
    platform.bill(MARCH)
    platform.sql("UPDATE ledger_invoices SET tax_cents = 180")

    assert platform.findings(MARCH) == [(ONE, "amount_differs")] * 2


def test_an_edited_invoice_is_followed_to_its_total_before_tax(light_platform: SmallPlatform) -> None:
    platform = users_with_tax(light_platform, ON, one="19")
    platform.calls(MARCH, (ONE, 1000))
    platform.bill(MARCH)
    (original,) = platform.standing()
    revision = platform.person(
        "POST",
        "/v1/invoices",
        {"from_invoice[action]": "revision", "from_invoice[invoice]": original.id},
    )
    line = {"lines[0][amount]": 500, "lines[0][description]": "by phone"}
    platform.person("POST", f"/v1/invoices/{revision['id']}/add_lines", line)
    platform.person("POST", f"/v1/invoices/{revision['id']}/finalize", {"auto_advance": "false"})
    platform.bill(MARCH, verify=True)

    bill = platform.bill_of(MARCH, ONE)
    assert (bill.total_cents, bill.tax_cents, bill.stripe_invoice_id) == (1500, 285, revision["id"])
    platform.must_agree(MARCH)


@pytest.mark.both_databases
@pytest.mark.parametrize("second", ["19", "unplaced"])
def test_what_a_plan_includes_is_taken_off_before_tax_and_a_lost_ledger_gets_its_lines_back(
    platform: SmallPlatform, second: str
) -> None:
    platform.source.plans([{"plan_id": "pro", "name": "Pro", "included_cents": 400}])
    users_with_tax(platform, ON, one="19", two=second)
    platform.sql("UPDATE billing_accounts SET plan_id = 'pro'")
    platform.calls(MARCH, (ONE, 1000), (TWO, 500))
    platform.bill(MARCH)

    (taxed,) = [each for each in platform.standing() if each.customer == f"cus_{ONE}"]
    assert [(line.description, line.amount_cents) for line in taxed.lines] == [
        ("Spell Platform API Usage - March 2025 (1 calls, $10.00)", 600),
        ("Included in Pro (-$4.00)", 0),
    ]
    assert (taxed.total_cents, taxed.tax_cents) == (714, 114)
    for _ in range(2):
        bill = platform.bill_of(MARCH, ONE)
        assert (bill.total_cents, bill.tax_cents, bill.without_tax) == (600, 114, None)
        for user, usage_cents in ((ONE, 1000), (TWO, 500)):
            assert platform.lines(MARCH, user) == [("usage", usage_cents), ("included", -400)]
        platform.must_agree(MARCH)
        platform.lose_the_ledger()
        assert platform.bill(MARCH).sweep.adopted == 2
