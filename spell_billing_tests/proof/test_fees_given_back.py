"""Of a fee that was charged in advance no more is given back than was paid, in its own currency, and once."""

from dataclasses import replace

import pytest

from spell_billing.core.errors import LedgerError
from spell_billing.core.outcomes import REMEDIES, Reason, State
from spell_billing.core.terms import FORGIVE, Policy
from spell_billing.invoicing.given_back import GivenBackAs, settle_given_back
from spell_billing.invoicing.review import release
from spell_billing.ledger.credits import settle_credit
from spell_billing.ledger.rows import Actor
from spell_billing_tests.proof.small_platform import APRIL, MARCH, MAY, SmallPlatform
from spell_billing_tests.proof.test_fees_given_up import ahead, all_agree, ends, fees
from spell_billing_tests.proof.test_plans import ONE, TWO

__all__ = ["ahead"]


@pytest.mark.parametrize("now", ["usd", "eur"])
def test_fees_in_advance_in_another_currency_hold_the_bill(ahead: SmallPlatform, now: str) -> None:
    ahead.sql("UPDATE billing_accounts SET currency = 'jpy'")
    ahead.bill(MARCH)
    ahead.sql(f"UPDATE billing_accounts SET currency = '{now}'")
    ends(ahead, "2025-04-16" if now == "eur" else "2025-04-01")
    ahead.calls(APRIL, (ONE, 5_000), (TWO, 100))
    ahead.bill(APRIL)

    bill = ahead.bill_of(APRIL, ONE)
    assert (bill.state, bill.reason) == (State.HELD, Reason.CURRENCY_CHANGED)
    assert ahead.bill_of(APRIL, TWO).state is State.FINALIZED
    assert not [cents for _, cents, _ in fees(ahead, APRIL) if cents < 0]

    ahead.sql("UPDATE billing_accounts SET currency = 'jpy'")
    ahead.bill(APRIL)

    assert ahead.bill_of(APRIL, ONE).state is State.FINALIZED
    all_agree(ahead, MARCH, APRIL)


def test_a_bill_whose_fee_was_charged_in_another_currency_can_be_settled(ahead: SmallPlatform) -> None:
    ahead.sql("UPDATE billing_accounts SET currency = 'jpy'")
    ahead.bill(MARCH)
    ahead.sql("UPDATE billing_accounts SET currency = 'usd'")
    ahead.bill(APRIL)
    with ahead.ledger() as ledger, ledger.writing() as connection, pytest.raises(LedgerError) as no_credit:
        settle_credit(connection, APRIL, ONE, "jpy", reason="paid back", actor=Actor("anna"))
    for told in (str(no_credit.value.remedy), REMEDIES[Reason.CURRENCY_CHANGED]):
        assert "--as billed-by-hand" in told
    ahead.settle(APRIL, ONE, "billed-by-hand")
    ends(ahead, "2025-05-01")
    ahead.calls(MAY, (ONE, 5_000))
    ahead.bill(MAY)

    # What was to be charged in advance with April's bill counts as charged with it.
    assert fees(ahead, MAY) == [("fee", -3_100, "2025-05")]
    all_agree(ahead, MARCH, APRIL, MAY)


def test_fees_of_an_account_that_is_gone_come_back_in_their_own_currency(ahead: SmallPlatform) -> None:
    ahead.sql("UPDATE billing_accounts SET currency = 'jpy'")
    ahead.bill(MARCH)
    ahead.sql(f"DELETE FROM billing_accounts WHERE user_id = '{ONE}'", "DELETE FROM plan_subscriptions")
    ahead.bill(APRIL)

    bill = ahead.bill_of(APRIL, ONE)
    assert (bill.state, bill.currency, bill.carried_cents) == (State.SKIPPED, "jpy", 3_100)


@pytest.mark.parametrize("refunds", [0, -100])
def test_a_fee_in_advance_that_was_forgiven_is_not_paid_out(ahead: SmallPlatform, refunds: int) -> None:
    small = replace(ahead, policy=Policy(fees_in_advance=True, small_amounts=FORGIVE, minimum_cents=7_000))
    small.calls(MARCH, (ONE, refunds))
    small.bill(MARCH)
    assert small.bill_of(MARCH, ONE).reason is Reason.SMALL_FORGIVEN
    ends(ahead)
    small.calls(APRIL, (ONE, 9_000))
    small.bill(APRIL)

    assert small.bill_of(APRIL, ONE).total_cents == 9_000
    all_agree(small, MARCH, APRIL)


@pytest.mark.parametrize(("percent", "back"), [(100, 0), (50, -1_550), (20, -2_480)])
def test_of_a_fee_no_more_is_given_back_than_a_coupon_left_to_pay(
    ahead: SmallPlatform, percent: int, back: int
) -> None:
    honoured = replace(ahead, policy=Policy(fees_in_advance=True, discounts=True))
    honoured.double.add_customer(f"cus_{ONE}", metadata={"double_coupon": str(percent)})
    honoured.bill(MARCH)
    ends(ahead)
    honoured.calls(APRIL, (ONE, 5_000))
    honoured.bill(APRIL)

    assert sum(cents for _, cents, _ in fees(honoured, APRIL)) == back
    all_agree(honoured, MARCH, APRIL)


@pytest.mark.parametrize("said", ["release", "correction"])
@pytest.mark.parametrize(("cents", "percent"), [(3_100, 0), (1_000, 0), (3_100, 50)])
def test_a_fee_that_may_go_back_twice_holds_the_bill_until_a_person_has_said_what_was_meant(
    ahead: SmallPlatform, said: str, cents: int, percent: int
) -> None:
    platform = replace(ahead, policy=Policy(fees_in_advance=True, discounts=bool(percent)))
    if percent:
        platform.double.add_customer(f"cus_{ONE}", metadata={"double_coupon": str(percent)})
    platform.bill(MARCH)
    platform.double.advance()
    # Of an invoice of which a coupon took half, that is half of it.
    platform.credit(MARCH, ONE, cents * (100 - percent) // 100)
    ends(platform)
    platform.calls(APRIL, (ONE, 5_000), (TWO, 100))
    platform.bill(APRIL)

    bill = platform.bill_of(APRIL, ONE)
    assert (bill.state, bill.reason) == (State.HELD, Reason.ALREADY_GIVEN_BACK)
    assert "fees of 2025-04" in (bill.message or "")
    all_agree(platform, MARCH)
    assert platform.bill_of(APRIL, TWO).state is State.FINALIZED
    answer(platform, said)
    platform.bill(APRIL)
    platform.calls(MAY, (ONE, 700))
    platform.bill(MAY)

    paid = 3_100 * (100 - percent) // 100
    back = paid if said == "release" else (3_100 - cents) * (100 - percent) // 100
    assert platform.bill_of(APRIL, ONE).total_cents == 5_000 - back
    assert platform.lines(MAY, ONE) == [("usage", 700)]
    all_agree(platform, MARCH, APRIL, MAY)


@pytest.mark.parametrize(
    ("said", "then"), [("goodwill", []), ("correction", [("fee", 3_100), ("fee_note", 0)])]
)
def test_money_that_goes_back_after_the_fee_did_is_named_until_a_person_has_said_what_was_meant(
    ahead: SmallPlatform, said: str, then: list[tuple[str, int]]
) -> None:
    ahead.bill(MARCH)
    ahead.double.advance()
    ends(ahead)
    ahead.calls(APRIL, (ONE, 5_000))
    ahead.bill(APRIL)
    ahead.credit(MARCH, ONE, 3_100)
    assert ahead.findings(MARCH) == [(ONE, "given_back_twice")]

    answer(ahead, said)
    ahead.calls(MAY, (ONE, 700))
    ahead.bill(MAY)

    assert ahead.lines(MAY, ONE) == [("usage", 700), *then]
    all_agree(ahead, MARCH, APRIL, MAY)


def test_goodwill_on_an_invoice_is_no_question_where_its_fee_in_advance_stands(ahead: SmallPlatform) -> None:
    ahead.bill(MARCH)
    ahead.double.advance()
    ahead.credit(MARCH, ONE, 1_000)
    ahead.calls(APRIL, (ONE, 5_000))
    ahead.bill(APRIL)
    ahead.sql("DELETE FROM usage_counters")
    ahead.calls(MAY, (ONE, 9_000))
    ahead.bill(MAY)

    assert ahead.bill_of(APRIL, ONE).state is State.FINALIZED
    assert ahead.bill_of(MAY, ONE).state is State.FINALIZED
    all_agree(ahead, MARCH, APRIL, MAY)


def answer(platform: SmallPlatform, said: str) -> None:
    with platform.ledger() as ledger:
        if said == "release":
            release(ledger, APRIL, Actor("anna"), "both were meant", ONE)
            return
        with ledger.writing() as connection:
            settle_given_back(connection, MARCH, ONE, GivenBackAs(said), reason="asked", actor=Actor("anna"))
