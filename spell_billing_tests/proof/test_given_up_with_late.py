"""A bill is given up, and so is a later one that charged late usage of its month."""

import pytest

from spell_billing.core.month import Month
from spell_billing_tests.proof.small_platform import APRIL, JUNE, MARCH, MAY, SmallPlatform

ONE = "user-0001"


GIVEN_BACK = 600


@pytest.mark.parametrize(
    ("before_may", "after_may", "late_cents", "due_cents"),
    [
        # Nobody paid what April gave back.
        ((), (MARCH, MAY), 300, GIVEN_BACK),
        ((), (MAY, MARCH), 300, GIVEN_BACK),
        # May charged it, and was given up.
        ((MARCH,), (MAY,), GIVEN_BACK, 0),
    ],
    ids=["its own bill first", "the later bill first", "before late usage came"],
)
def test_what_was_given_back_is_charged_unless_its_charge_was_given_up_too(
    light_platform: SmallPlatform,
    before_may: tuple[Month, ...],
    after_may: tuple[Month, ...],
    late_cents: int,
    due_cents: int,
) -> None:
    platform = light_platform
    platform.accounts(ONE)
    platform.calls(MARCH, (ONE, 1000))
    platform.bill(MARCH)
    platform.sql("UPDATE usage_counters SET cost_cents = 400 WHERE cost_cents = 1000")
    platform.calls(APRIL, (ONE, 900))
    platform.bill(APRIL)
    assert platform.lines(APRIL, ONE)[1] == ("late_usage", -GIVEN_BACK)
    for month in before_may:
        platform.void(month, ONE, for_good=True)
    platform.calls(MARCH, (ONE, 300))
    platform.calls(MAY, (ONE, 900))
    platform.bill(MAY)
    assert platform.lines(MAY, ONE)[1] == ("late_usage", late_cents)

    for month in after_may:
        platform.void(month, ONE, for_good=True)
    platform.calls(JUNE, (ONE, 2000))
    platform.bill(JUNE)

    assert platform.bill_of(JUNE, ONE).total_cents == 2000 + due_cents
    for month in (MARCH, APRIL, MAY, JUNE):
        assert platform.reconcile(month).findings == [], month
