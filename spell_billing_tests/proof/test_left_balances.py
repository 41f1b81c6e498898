"""What is left on the balance of a replaced customer holds the month until a person looks."""

import pytest

from spell_billing.core.month import Month
from spell_billing.ledger.moves import record_move
from spell_billing.ledger.rows import Actor
from spell_billing_tests.proof.reviewing import findings_of
from spell_billing_tests.proof.small_platform import APRIL, MARCH, MAY, NOW, SmallPlatform

ONE, TWO = "user-0001", "user-0002"


def replace(platform: SmallPlatform, user: str, customer: str) -> None:
    platform.double.add_customer(customer)
    platform.sql(f"UPDATE billing_accounts SET stripe_customer_id = '{customer}' WHERE user_id = '{user}'")


def left(platform: SmallPlatform, month: Month) -> list[tuple[str, str, int]]:
    """Review the month; give the users, customers and cents of which something is left behind."""
    return [
        (each["user"], each["customer"], each["cents"])
        for finding in findings_of(platform, month)
        if finding["code"] == "balance_left_behind"
        for each in finding["data"]["balances"]
    ]


@pytest.fixture
def thirty_moved(light_platform: SmallPlatform) -> SmallPlatform:
    """Give a platform whose March was too little for Stripe to charge, for two users."""
    light_platform.accounts(ONE, TWO)
    light_platform.calls(MARCH, (ONE, 30), (TWO, 20))
    light_platform.bill(MARCH)
    light_platform.calls(APRIL, (ONE, 1_000), (TWO, 1_000))
    return light_platform


def test_an_amount_that_a_later_invoice_took_up_is_not_left(thirty_moved: SmallPlatform) -> None:
    thirty_moved.bill(APRIL)
    replace(thirty_moved, ONE, "cus_new")
    thirty_moved.calls(MAY, (ONE, 1_000))

    assert left(thirty_moved, MAY) == []


def test_a_customer_who_is_set_back_has_left_nothing(thirty_moved: SmallPlatform) -> None:
    replace(thirty_moved, ONE, "cus_new")
    assert left(thirty_moved, APRIL) == [(ONE, f"cus_{ONE}", 30)]

    replace(thirty_moved, ONE, f"cus_{ONE}")

    assert left(thirty_moved, APRIL) == []


def test_a_customer_whom_another_user_still_has_takes_it_up_there(thirty_moved: SmallPlatform) -> None:
    thirty_moved.sql(f"UPDATE billing_accounts SET stripe_customer_id = 'cus_{ONE}' WHERE user_id = '{TWO}'")
    replace(thirty_moved, ONE, "cus_new")

    assert left(thirty_moved, APRIL) == [(TWO, f"cus_{TWO}", 20)]


def test_a_credit_on_the_balance_is_left_as_well(light_platform: SmallPlatform) -> None:
    light_platform.accounts(ONE)
    light_platform.calls(MARCH, (ONE, 1_000))
    light_platform.bill(MARCH)
    (invoice,) = light_platform.standing()
    light_platform.person("POST", f"/v1/invoices/{invoice.id}/pay")
    light_platform.credit(MARCH, ONE, 400, to_balance=True)
    light_platform.calls(APRIL, (ONE, 100))
    light_platform.bill(APRIL)
    replace(light_platform, ONE, "cus_new")
    light_platform.calls(MAY, (ONE, 1_000))

    assert left(light_platform, MAY) == [(ONE, f"cus_{ONE}", -300)]


def test_a_balance_that_was_made_by_hand_is_not_taken_for_a_debt(light_platform: SmallPlatform) -> None:
    light_platform.accounts(TWO)
    light_platform.source.accounts([{"user_id": ONE, "stripe_customer_id": "cus_gift"}])
    light_platform.double.add_customer("cus_gift", balance_cents=-5_000)
    light_platform.calls(MARCH, (ONE, 1_000))
    light_platform.bill(MARCH)
    replace(light_platform, ONE, "cus_new")
    light_platform.calls(APRIL, (ONE, 1_000))

    assert left(light_platform, APRIL) == []


def test_it_stays_with_the_customer_of_a_user_who_moved_to_another_id(thirty_moved: SmallPlatform) -> None:
    thirty_moved.sql("DELETE FROM usage_counters")
    thirty_moved.calls(MARCH, (TWO, 50))
    thirty_moved.calls(APRIL, (TWO, 1_000))
    with thirty_moved.ledger() as ledger, ledger.writing() as connection:
        record_move(
            connection, ONE, TWO, reason="merged", actor=Actor("tester"), has_usage=lambda _: True, now=NOW
        )

    assert left(thirty_moved, APRIL) == [(ONE, f"cus_{ONE}", 30)]


def test_once_told_it_is_told_again_only_when_it_is_another_amount(thirty_moved: SmallPlatform) -> None:
    replace(thirty_moved, ONE, "cus_new")
    assert left(thirty_moved, APRIL) == [(ONE, f"cus_{ONE}", 30)]
    thirty_moved.send(APRIL)
    thirty_moved.calls(MAY, (ONE, 1_000), (TWO, 1_000))

    assert left(thirty_moved, MAY) == []


def test_a_bill_that_got_another_customer_after_the_review_is_told_of_the_month_after(
    thirty_moved: SmallPlatform,
) -> None:
    assert left(thirty_moved, APRIL) == []
    thirty_moved.sql(f"UPDATE billing_accounts SET stripe_customer_id = NULL WHERE user_id = '{ONE}'")
    thirty_moved.bill(APRIL)
    replace(thirty_moved, ONE, "cus_new")
    thirty_moved.bill(APRIL)
    thirty_moved.calls(MAY, (ONE, 1_000), (TWO, 1_000))

    assert left(thirty_moved, MAY) == [(ONE, f"cus_{ONE}", 30)]
