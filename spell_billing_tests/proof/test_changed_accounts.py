"""An account that changes while its bill waits to be sent: the bill goes to the customer of now, once."""

from dataclasses import replace

import pytest

from spell_billing.core.outcomes import State
from spell_billing.stripe_double import RequestRecord
from spell_billing_tests.proof.small_platform import MARCH, SmallPlatform

ONE, TWO = "user-0001", "user-0002"


@pytest.mark.both_databases
@pytest.mark.parametrize("lost", ["lost_before", "lost_after"])
def test_a_bill_that_was_begun_for_another_customer_is_sent_to_the_new_one_alone(
    platform: SmallPlatform, lost: str
) -> None:
    platform.accounts(ONE, TWO)
    platform.calls(MARCH, (ONE, 1000), (TWO, 500))

    def stay_silent(_: RequestRecord) -> None:
        for operation in ("invoices.create", "invoices.list"):
            platform.double.arm("lost_before", operation=operation, probability=1.0)

    # Whether Stripe made the draft of the second bill is not known: no answer came.
    platform.double.arm(lost, operation="invoices.create", nth=2, before_effect=stay_silent)
    replace(platform, tries=1).bill(MARCH)
    platform.double.disarm()
    assert platform.bill_of(MARCH, TWO).state is State.PLANNED
    platform.double.add_customer("cus_new")
    platform.sql(f"UPDATE billing_accounts SET stripe_customer_id = 'cus_new' WHERE user_id = '{TWO}'")

    platform.bill(MARCH)

    assert [(each.customer, each.total_cents) for each in platform.double.invoices()] == [
        (f"cus_{ONE}", 1000),
        ("cus_new", 500),
    ]
    actions = [each["action"] for each in platform.trail(MARCH, TWO)]
    assert actions.index("redrafted") == actions.index("account_changed") + 1
    platform.must_agree(MARCH)


def test_bills_whose_accounts_did_not_change_stay_as_they_were_drafted(light_platform: SmallPlatform) -> None:
    light_platform.accounts(ONE, TWO)
    light_platform.calls(MARCH, (ONE, 1000), (TWO, 500))
    light_platform.double.arm("lost_before", operation="invoices.create", nth=2)
    replace(light_platform, tries=1).bill(MARCH)
    light_platform.calls(MARCH, (TWO, 70))

    light_platform.bill(MARCH)

    assert light_platform.bill_of(MARCH, TWO).total_cents == 500
