"""What people do in Stripe's dashboard is followed, told, and never billed again behind their back."""

import pytest

from spell_billing.core.outcomes import Reason, State
from spell_billing.stripe_double import ABSENT
from spell_billing.stripe_double.account import Call
from spell_billing.stripe_double.invoices import add_lines, finalize_invoice
from spell_billing_tests.proof.small_platform import APRIL, MARCH, SmallPlatform

ONE, TWO = "user-0001", "user-0002"


@pytest.fixture
def declined(platform: SmallPlatform) -> SmallPlatform:
    """Give a platform whose March is billed: ONE's card is declined, TWO paid."""
    platform.accounts(ONE, TWO)
    platform.double.add_customer(f"cus_{ONE}", card="declined")
    platform.calls(MARCH, (ONE, 1000), (TWO, 500))
    platform.bill(MARCH)
    platform.double.advance()
    return platform


def revise(platform: SmallPlatform, invoice_id: str | None, cents: int, *, finalize: bool = True) -> str:
    """Edit an open invoice as the dashboard does: a new draft, one more line, finalized."""
    source = {"from_invoice[action]": "revision", "from_invoice[invoice]": invoice_id}
    draft = str(platform.person("POST", "/v1/invoices", source)["id"])
    line = {"lines[0][amount]": cents, "lines[0][description]": "Agreed"}
    platform.person("POST", f"/v1/invoices/{draft}/add_lines", line)
    if finalize:
        platform.person("POST", f"/v1/invoices/{draft}/finalize", {"auto_advance": "false"})
    return draft


def test_an_edited_invoice_is_followed_and_what_was_given_away_stays_given(declined: SmallPlatform) -> None:
    original = declined.bill_of(MARCH, ONE).stripe_invoice_id
    revision = revise(declined, original, -300)

    declined.bill(MARCH, verify=True)

    bill = declined.bill_of(MARCH, ONE)
    assert (bill.stripe_invoice_id, bill.total_cents, bill.state) == (revision, 700, State.FINALIZED)
    assert declined.lines(MARCH, ONE) == [("usage", 1000), ("changed_at_stripe", -300)]
    declined.must_agree(MARCH)
    # Late usage of the month is charged as ever, and the reduction is not charged with it.
    declined.calls(MARCH, (ONE, 50))
    declined.calls(APRIL, (ONE, 10))
    declined.bill(APRIL)
    assert declined.lines(APRIL, ONE) == [("usage", 10), ("late_usage", 50)]
    declined.must_agree(APRIL)


def test_an_edit_of_an_edit_is_followed_to_the_latest(declined: SmallPlatform) -> None:
    first = revise(declined, declined.bill_of(MARCH, ONE).stripe_invoice_id, -300)
    second = revise(declined, first, -100)

    declined.bill(MARCH, verify=True)

    assert declined.bill_of(MARCH, ONE).stripe_invoice_id == second
    assert declined.bill_of(MARCH, ONE).total_cents == 600
    declined.must_agree(MARCH)


def test_an_edit_under_way_is_left_alone(declined: SmallPlatform) -> None:
    draft = revise(declined, declined.bill_of(MARCH, ONE).stripe_invoice_id, -300, finalize=False)

    declined.bill(MARCH, verify=True)

    assert declined.double.state.invoices.find(draft) is not None
    declined.must_agree(MARCH)


def test_an_empty_ledger_takes_over_an_edited_invoice_with_what_was_given_away(
    declined: SmallPlatform,
) -> None:
    revision = revise(declined, declined.bill_of(MARCH, ONE).stripe_invoice_id, -300)
    declined.lose_the_ledger()

    declined.bill(MARCH)

    assert declined.bill_of(MARCH, ONE).stripe_invoice_id == revision
    declined.calls(APRIL, (ONE, 10))
    declined.bill(APRIL)
    assert declined.lines(APRIL, ONE) == [("usage", 10)]


def test_cleared_metadata_is_found_by_the_id_named_and_written_back(declined: SmallPlatform) -> None:
    for user in (ONE, TWO):
        invoice_id = declined.bill_of(MARCH, user).stripe_invoice_id
        declined.person("POST", f"/v1/invoices/{invoice_id}", {"metadata": ""})

    assert declined.findings(MARCH) == [(ONE, "metadata_differs"), (TWO, "metadata_differs")]
    outcome = declined.bill(MARCH, verify=True)

    assert len(outcome.sweep.renamed) == 2
    declined.must_agree(MARCH)
    assert outcome.invoiced == 0


def test_an_empty_ledger_takes_a_declined_invoice_as_declined(declined: SmallPlatform) -> None:
    declined.lose_the_ledger()

    declined.bill(MARCH)

    assert declined.bill_of(MARCH, ONE).state is State.PAYMENT_FAILED
    assert declined.bill_of(MARCH, TWO).state is State.PAID


def test_a_draft_of_other_metadata_is_not_finalized(platform: SmallPlatform) -> None:
    platform.accounts(ONE)
    platform.calls(MARCH, (ONE, 1000))
    changed: list[str] = []

    def clear(_: object) -> None:
        (draft,) = platform.double.invoices()
        changed.append(draft.id)
        platform.double.show(draft.id, metadata={"spell_billing_key": "another"})

    platform.double.arm("none", operation="invoices.create", after_effect=clear)
    platform.bill(MARCH)

    (invoice,) = platform.standing()
    assert invoice.id not in changed
    platform.must_agree(MARCH)


def test_a_draft_finalized_by_hand_with_another_total_can_be_accepted(platform: SmallPlatform) -> None:
    platform.accounts(ONE)
    platform.calls(MARCH, (ONE, 1000))

    def finalize(_: object) -> None:
        (draft,) = platform.double.invoices()
        less = {"lines": [{"amount": -950, "description": "Agreed"}]}
        add_lines(platform.double.state, Call(draft.id, less))
        finalize_invoice(platform.double.state, Call(draft.id, {"auto_advance": False}))

    platform.double.arm("none", operation="invoices.finalize", before_effect=finalize)
    platform.bill(MARCH)

    parked = platform.bill_of(MARCH, ONE)
    assert (parked.state, parked.reason) == (State.PARKED, Reason.CHANGED_AT_STRIPE)
    assert "$0.50 at Stripe (open), $10.00 billed" in str(parked.message)
    assert "settle --as billed-by-hand" in str(parked.why)
    (finding,) = platform.reconcile(MARCH).findings
    assert "$0.50 at Stripe" in finding.found

    accepted = platform.settle(MARCH, ONE, "billed-by-hand")

    assert (accepted.state, accepted.total_cents) == (State.FINALIZED, 50)
    assert platform.status(MARCH) == "billed"
    platform.must_agree(MARCH)
    platform.bill(MARCH, verify=True)
    platform.must_agree(MARCH)


@pytest.mark.parametrize(
    "odd", [{"metadata": None}, {"next_payment_attempt": ABSENT}, {"attempt_count": None}]
)
@pytest.mark.parametrize("ours", [True, False])
def test_an_odd_invoice_in_the_account_stops_nobody(
    declined: SmallPlatform, odd: dict[str, object], *, ours: bool
) -> None:
    if ours:
        odd_one = str(declined.bill_of(MARCH, ONE).stripe_invoice_id)
    else:
        odd_one = declined.person_bills(f"cus_{TWO}", 99)
    declined.double.show(odd_one, **odd)

    declined.bill(MARCH, verify=True)
    declined.calls(APRIL, (ONE, 10), (TWO, 20))
    declined.bill(APRIL)

    assert declined.status(APRIL) == "billed"
    declined.must_agree(APRIL)


def test_customers_on_a_test_clock_are_billed_and_reconciled(platform: SmallPlatform) -> None:
    platform.accounts(ONE, TWO)
    platform.double.add_customer(f"cus_{ONE}", test_clock="clock_1")
    platform.calls(MARCH, (ONE, 1000), (TWO, 500))

    platform.bill(MARCH)
    platform.bill(MARCH, verify=True)

    assert platform.status(MARCH) == "billed"
    platform.must_agree(MARCH)
