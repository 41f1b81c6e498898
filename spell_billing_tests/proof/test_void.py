"""The life of a voided invoice: audited, refused where it would leave two, billed again once."""

from typing import Any

import pytest

from spell_billing.core.errors import LedgerError, StripeAccountError
from spell_billing.core.outcomes import Reason, State
from spell_billing_tests.proof.small_platform import APRIL, MARCH, SmallPlatform

ONE, TWO, FREE = "user-0001", "user-0002", "user-0003"


def invoice_ids(platform: SmallPlatform, user: str) -> list[tuple[str, str]]:
    """Give generation and status of every invoice of the user at Stripe, oldest first."""
    return [
        (each.metadata["spell_generation"], each.status)
        for each in platform.double.invoices()
        if each.metadata["spell_user_id"] == user
    ]


def must_be_settled(platform: SmallPlatform) -> None:
    """All three sides agree, and a further run sends nothing at all."""
    assert platform.status(MARCH) == "billed"
    platform.must_agree(MARCH)
    requests = len(platform.double.requests)
    assert platform.bill(MARCH).sent_nothing
    assert len(platform.double.requests) == requests
    writes = len(platform.double.writes)
    platform.bill(MARCH, verify=True)
    assert len(platform.double.writes) == writes
    platform.must_agree(MARCH)


def test_a_voided_invoice_is_billed_again_as_a_new_generation(billed: SmallPlatform) -> None:
    first, other = billed.bill_of(MARCH, ONE), billed.bill_of(MARCH, TWO)

    voided = billed.void(MARCH, ONE, "billed to the wrong project")

    assert (voided.state, voided.reason, voided.generation) == (State.VOID, Reason.VOIDED, 1)
    assert voided.stripe_invoice_id == first.stripe_invoice_id
    assert billed.status(MARCH) == "partial"
    assert invoice_ids(billed, ONE) == [("1", "void")]

    assert billed.bill(MARCH).invoiced == 1

    again = billed.bill_of(MARCH, ONE)
    assert (again.state, again.generation, again.total_cents) == (State.FINALIZED, 2, 1234)
    assert invoice_ids(billed, ONE) == [("1", "void"), ("2", "open")]
    assert [each.total_cents for each in billed.standing()] == [500, 1234]
    assert billed.bill_of(MARCH, TWO) == other
    must_be_settled(billed)


def test_a_void_is_audited_with_the_reason_and_who(billed: SmallPlatform) -> None:
    billed.void(MARCH, ONE, "billed to the wrong project")
    sent = billed.double.writes[-1]
    assert (sent.operation, sent.status) == ("invoices.void", 200)
    asked, done = billed.trail(MARCH, ONE)[-2:]
    assert (asked["action"], asked["to_state"]) == ("void_requested", "finalized")
    assert (done["action"], done["from_state"], done["to_state"]) == ("voided", "finalized", "void")
    assert {each["actor"] for each in (asked, done)} == {"support"}
    assert asked["detail"] == "billed to the wrong project"
    assert done["detail"] == "to be billed again: billed to the wrong project"
    assert done["stripe_request_id"] == sent.request_id


def test_a_generation_can_be_voided_again_and_again(light_billed: SmallPlatform) -> None:
    for _ in range(2):
        light_billed.void(MARCH, ONE)
        light_billed.bill(MARCH)
    assert invoice_ids(light_billed, ONE) == [("1", "void"), ("2", "void"), ("3", "open")]
    assert [each.state for each in light_billed.generations(MARCH, ONE)] == ["void", "void", "finalized"]
    must_be_settled(light_billed)


def test_billing_again_takes_the_account_as_it_is_now(light_billed: SmallPlatform) -> None:
    light_billed.void(MARCH, ONE)
    light_billed.double.add_customer("cus_right")
    light_billed.sql(
        "UPDATE billing_accounts SET stripe_customer_id = 'cus_right' WHERE user_id = 'user-0001'"
    )
    light_billed.bill(MARCH)
    assert [each.customer for each in light_billed.standing()] == ["cus_user-0002", "cus_right"]
    must_be_settled(light_billed)


def test_billing_again_that_fails_is_taken_up_when_the_account_is_mended(light_billed: SmallPlatform) -> None:
    light_billed.void(MARCH, ONE)
    light_billed.sql(
        "UPDATE billing_accounts SET stripe_customer_id = 'cus_none' WHERE user_id = 'user-0001'"
    )
    light_billed.bill(MARCH)
    failed = light_billed.bill_of(MARCH, ONE)
    assert (failed.state, failed.reason, failed.generation) == ("failed", "unknown_customer", 2)
    assert light_billed.findings(MARCH) == [(ONE, "not_invoiced")]
    light_billed.double.add_customer("cus_none")
    light_billed.bill(MARCH)
    assert invoice_ids(light_billed, ONE) == [("1", "void"), ("2", "open")]
    must_be_settled(light_billed)


def test_a_paid_invoice_is_refused(billed: SmallPlatform) -> None:
    billed.double.advance()
    writes, before = len(billed.double.writes), billed.generations(MARCH, ONE)
    with pytest.raises(LedgerError, match="is paid, and Stripe voids no paid invoice") as refused:
        billed.void(MARCH, ONE)
    assert "spell-billing credit --month 2025-03" in refused.value.remedy
    assert len(billed.double.writes) == writes
    assert billed.generations(MARCH, ONE) == before


@pytest.mark.parametrize(
    ("user", "message"),
    [(FREE, "no invoice to void for 2025-03: the bill is skipped"), ("user-0009", "has no bill for 2025-03")],
)
def test_where_nothing_was_invoiced_nothing_is_voided(
    light_billed: SmallPlatform, user: str, message: str
) -> None:
    requests = len(light_billed.double.requests)
    with pytest.raises(LedgerError, match=message):
        light_billed.void(MARCH, user)
    assert len(light_billed.double.requests) == requests


def test_a_void_that_is_done_is_not_done_again(light_billed: SmallPlatform) -> None:
    light_billed.void(MARCH, ONE)
    with pytest.raises(LedgerError, match="the bill is void"):
        light_billed.void(MARCH, ONE)
    assert len([each for each in light_billed.double.writes if each.operation == "invoices.void"]) == 1


def test_where_another_invoice_of_the_bill_stands_it_is_refused(light_billed: SmallPlatform) -> None:
    other = light_billed.person_bills(f"cus_{ONE}", 1234, like=light_billed.standing()[0])
    with pytest.raises(LedgerError, match=f"{other}.*would leave two"):
        light_billed.void(MARCH, ONE)
    assert [each.status for each in light_billed.double.invoices()] == ["open", "open", "open"]


def test_for_good_is_never_billed_again_and_the_month_counts_as_billed(billed: SmallPlatform) -> None:
    bill = billed.void(MARCH, ONE, "goodwill", for_good=True)
    assert (bill.state, bill.reason, bill.message) == (State.VOID, Reason.WRITTEN_OFF, "goodwill")
    assert billed.status(MARCH) == "billed"
    billed.bill(MARCH)
    billed.bill(MARCH, verify=True)
    assert invoice_ids(billed, ONE) == [("1", "void")]
    assert len(billed.generations(MARCH, ONE)) == 1
    must_be_settled(billed)


def test_what_waits_to_be_billed_again_can_still_be_voided_for_good(light_billed: SmallPlatform) -> None:
    light_billed.void(MARCH, ONE)
    assert light_billed.status(MARCH) == "partial"
    requests = len(light_billed.double.requests)
    light_billed.void(MARCH, ONE, "goodwill", for_good=True)
    assert len(light_billed.double.requests) == requests
    light_billed.bill(MARCH)
    assert invoice_ids(light_billed, ONE) == [("1", "void")]
    must_be_settled(light_billed)


@pytest.mark.parametrize("kind", ["lost_after", "error_500_after", "truncated"])
def test_a_crash_between_stripe_s_answer_and_the_ledger_is_completed(
    light_billed: SmallPlatform, kind: str
) -> None:
    light_billed.tries = 1
    light_billed.double.arm(kind, operation="invoices.void")
    for nth in (2, 3):  # the HTTP client itself asks once more when an old connection breaks
        light_billed.double.arm("lost_before", operation="invoices.retrieve", nth=nth)
    with pytest.raises((StripeAccountError, LedgerError), match="did not void"):
        light_billed.void(MARCH, ONE)
    assert light_billed.bill_of(MARCH, ONE).state is State.FINALIZED
    assert light_billed.findings(MARCH) == [(ONE, "void_at_stripe")]
    assert light_billed.trail(MARCH, ONE)[-1]["action"] == "void_requested"

    light_billed.void(MARCH, ONE)
    light_billed.bill(MARCH)

    assert invoice_ids(light_billed, ONE) == [("1", "void"), ("2", "open")]
    must_be_settled(light_billed)


@pytest.mark.parametrize(
    "kind", ["lost_after", "lost_before", "error_500_after", "error_500_before", "truncated"]
)
def test_an_answer_that_is_lost_does_not_stop_a_void(light_billed: SmallPlatform, kind: str) -> None:
    light_billed.double.arm(kind, operation="invoices.void")
    light_billed.void(MARCH, ONE)
    light_billed.bill(MARCH)
    assert invoice_ids(light_billed, ONE) == [("1", "void"), ("2", "open")]
    must_be_settled(light_billed)


def test_a_void_interrupted_and_then_billed_is_parked_until_the_void_is_repeated(
    light_billed: SmallPlatform,
) -> None:
    light_billed.person_voids(light_billed.bill_of(MARCH, ONE).stripe_invoice_id)
    assert light_billed.bill(MARCH).sent_nothing
    assert light_billed.bill(MARCH, verify=True).sweep.parked == 1
    parked = light_billed.bill_of(MARCH, ONE)
    assert (parked.state, parked.reason) == (State.PARKED, Reason.VOIDED_AT_STRIPE)
    assert light_billed.findings(MARCH) == [(ONE, "not_invoiced"), (ONE, "void_at_stripe")]

    light_billed.void(MARCH, ONE, "meant")
    light_billed.bill(MARCH)

    assert invoice_ids(light_billed, ONE) == [("1", "void"), ("2", "open")]
    must_be_settled(light_billed)


def test_of_two_parked_invoices_the_one_that_a_person_leaves_is_adopted(billed: SmallPlatform) -> None:
    own = billed.bill_of(MARCH, ONE).stripe_invoice_id
    copy = billed.person_bills(f"cus_{ONE}", 1234, like=billed.standing()[0])
    billed.double.state.violations.clear()
    assert billed.bill(MARCH, verify=True).sweep.parked == 1
    assert billed.bill_of(MARCH, ONE).reason is Reason.TWO_INVOICES
    assert billed.findings(MARCH) == [
        (ONE, "not_invoiced"),
        (ONE, "two_for_one_user"),
        (ONE, "unknown_to_ledger"),
    ]
    with pytest.raises(LedgerError, match="would leave two"):
        billed.void(MARCH, ONE)
    assert billed.bill(MARCH, verify=True).sweep.parked == 0

    billed.person_voids(copy)
    billed.bill(MARCH, verify=True)

    bill = billed.bill_of(MARCH, ONE)
    assert (bill.state, bill.reason, bill.stripe_invoice_id) == (State.FINALIZED, None, own)
    must_be_settled(billed)


def test_the_copy_may_be_the_one_that_stays(light_billed: SmallPlatform) -> None:
    original = light_billed.standing()[0]
    copy = light_billed.person_bills(f"cus_{ONE}", 1234, like=original)
    light_billed.double.state.violations.clear()
    light_billed.bill(MARCH, verify=True)
    light_billed.person_voids(original.id)
    light_billed.bill(MARCH, verify=True)
    bill = light_billed.bill_of(MARCH, ONE)
    assert (bill.state, bill.stripe_invoice_id) == (State.FINALIZED, copy)
    must_be_settled(light_billed)


def carry_a_credit(platform: SmallPlatform) -> None:
    platform.accounts(ONE)
    platform.calls(MARCH, (ONE, -300))
    platform.bill(MARCH)
    platform.calls(APRIL, (ONE, 1000))
    platform.bill(APRIL)
    assert platform.lines(APRIL, ONE) == [("usage", 1000), ("credit", -300)]


def test_a_credit_comes_back_with_the_void_and_is_applied_again(platform: SmallPlatform) -> None:
    carry_a_credit(platform)
    platform.void(APRIL, ONE)
    platform.bill(APRIL)
    again = platform.bill_of(APRIL, ONE)
    assert (again.generation, again.total_cents, again.credit_applied_cents) == (2, 700, 300)
    assert [each.total_cents for each in platform.standing()] == [700]
    platform.must_agree(APRIL)


def test_a_credit_of_what_was_voided_for_good_is_left_for_later(light_platform: SmallPlatform) -> None:
    carry_a_credit(light_platform)
    light_platform.void(APRIL, ONE, for_good=True)
    light_platform.calls(APRIL.next(), (ONE, 1000))
    light_platform.bill(APRIL.next())
    assert light_platform.lines(APRIL.next(), ONE) == [("usage", 1000), ("credit", -300)]


@pytest.mark.both_databases
@pytest.mark.parametrize(
    ("expired", "again"), [(False, False), (True, True)], ids=["keys_kept", "keys_expired_and_late_rows"]
)
def test_an_empty_ledger_recovers_both_generations(
    billed: SmallPlatform, *, expired: bool, again: bool
) -> None:
    first = billed.bill_of(MARCH, ONE).stripe_invoice_id
    billed.void(MARCH, ONE)
    billed.bill(MARCH)
    second = billed.bill_of(MARCH, ONE).stripe_invoice_id
    writes = len(billed.double.writes)
    billed.lose_the_ledger()
    late_cents = 30 if again else 0
    if again:
        billed.calls(MARCH, (ONE, late_cents))
    if expired:
        billed.double.expire_all_keys()

    outcome = billed.bill(MARCH)

    assert (outcome.sweep.adopted, outcome.sweep.unknown) == (2, [])
    assert len(billed.double.writes) == writes
    one, two = billed.generations(MARCH, ONE)
    assert (one.state, one.reason, one.stripe_invoice_id) == (State.VOID, Reason.VOIDED, first)
    assert (two.state, two.reason, two.stripe_invoice_id) == (State.FINALIZED, None, second)
    assert (two.calls, int(two.usage_cents), two.total_cents) == (2, 1234, 1234)
    assert (two.unbilled_calls, int(two.unbilled_usage_cents)) == (int(again), late_cents)
    must_be_settled(billed)
    billed.calls(APRIL, (ONE, 100))
    billed.bill(APRIL)
    assert billed.lines(APRIL, ONE)[1:] == ([("adjustment", late_cents)] if again else [])


def test_a_ledger_from_before_the_void_takes_over_the_new_generation(light_billed: SmallPlatform) -> None:
    columns = ("state", "reason", "message", "stripe_request_id")
    before: dict[str, Any] = {name: getattr(light_billed.bill_of(MARCH, ONE), name) for name in columns}
    light_billed.void(MARCH, ONE)
    light_billed.bill(MARCH)
    light_billed.sql(
        "DELETE FROM ledger_invoices WHERE generation = 2",
        "UPDATE ledger_invoices SET state = 'finalized', reason = NULL, message = NULL "
        "WHERE user_id = 'user-0001'",
    )
    assert light_billed.bill_of(MARCH, ONE).state is before["state"]
    assert light_billed.findings(MARCH) == [(ONE, "unknown_to_ledger"), (ONE, "void_at_stripe")]
    writes = len(light_billed.double.writes)
    light_billed.bill(MARCH, verify=True)
    assert len(light_billed.double.writes) == writes
    assert [each.state for each in light_billed.generations(MARCH, ONE)] == ["void", "finalized"]
    must_be_settled(light_billed)
