"""Bills of a user whose id is blank, from a version that took it for one: nothing more comes of them."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from spell_billing.core.outcomes import State
from spell_billing.usage import accounts, sqlite_sql
from spell_billing.usage.postgres_sql import UsageSql
from spell_billing_tests.proof.leavers import ANN, BOB
from spell_billing_tests.proof.small_platform import APRIL, MARCH, MAY, SmallPlatform

BLANK = ""
SPACES = "  "
"""Stripe keeps these in the metadata of an invoice, which could be sent; of an empty id it kept nothing."""


@contextmanager
def as_before() -> Iterator[None]:
    """Let a blank id be a user, as it was."""
    good = "typeof(cost_cents) = 'integer' AND typeof(user_id) IN ('text', 'integer')"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite_sql, "_GOOD", good)
        patch.setattr(UsageSql, "_may_be_blank", False)
        patch.setattr(accounts, "BLANKS", "\0")
        yield


def billed_before(platform: SmallPlatform, blank: str = BLANK) -> None:
    """Bill March for ANN and the user without a name."""
    platform.accounts(ANN)
    platform.calls(MARCH, (ANN, 500), (blank, 700))
    with as_before():
        platform.bill(MARCH)


@pytest.mark.both_databases
def test_a_paid_bill_of_a_blank_user_stays_and_nothing_is_given_back_or_charged_again(
    platform: SmallPlatform,
) -> None:
    platform.source.accounts([{"user_id": SPACES, "stripe_customer_id": "cus_spaces"}])
    platform.double.add_customer("cus_spaces")
    billed_before(platform, SPACES)
    assert platform.bill_of(MARCH, SPACES).state is State.FINALIZED

    for month in (APRIL, MAY):
        platform.calls(month, (ANN, 500))
        platform.bill(month)
        assert platform.generations(month, SPACES) == []
        assert platform.lines(month, ANN) == [("usage", 500)]
        platform.must_agree(month)

    platform.bill(MARCH)
    platform.must_agree(MARCH)
    assert platform.status(MARCH) == "billed"
    assert platform.explain(MARCH, SPACES)
    assert sorted(each.total_cents for each in platform.standing()) == [500, 500, 500, 700]


@pytest.mark.both_databases
def test_a_failed_bill_of_a_blank_user_charges_nobody_and_can_be_closed(
    platform: SmallPlatform,
) -> None:
    billed_before(platform)
    platform.accounts(BLANK)
    platform.bill(MARCH)
    assert platform.bill_of(MARCH, BLANK).state is State.FAILED
    assert platform.findings(MARCH) == [(BLANK, "not_invoiced")]
    platform.calls(APRIL, (ANN, 500))
    platform.bill(APRIL)
    platform.must_agree(APRIL)
    assert platform.status(MARCH) == "partial"

    platform.settle(MARCH, BLANK)

    assert platform.status(MARCH) == "billed"
    platform.must_agree(MARCH)


@pytest.mark.both_databases
def test_rows_that_get_their_user_back_are_charged_to_that_user_once(platform: SmallPlatform) -> None:
    billed_before(platform)
    platform.accounts(BOB)
    platform.settle(MARCH, BLANK)
    platform.sql(f"UPDATE usage_counters SET user_id = '{BOB}' WHERE user_id = ''")
    for month in (APRIL, MAY):
        platform.calls(month, (ANN, 500), (BOB, 1))
        platform.bill(month)
        platform.must_agree(month)

    assert platform.lines(APRIL, BOB) == [("usage", 1), ("late_usage", 700)]
    assert platform.lines(MAY, BOB) == [("usage", 1)]
