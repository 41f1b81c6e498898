"""A total too small for an invoice: left for the next one or forgiven, to the cent."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from spell_billing.core.drafting import Account, Credit, Draft, draft_invoice
from spell_billing.core.month import Month
from spell_billing.core.outcomes import Reason, State
from spell_billing.core.terms import CARRY, FORGIVE, Policy

OCTOBER = Month(2026, 10)
ACCOUNT = Account("cus_1")
POLICIES = {name: Policy(small_amounts=name, minimum_cents=50) for name in (CARRY, FORGIVE)}


def draft(cents: str, policy: str, credit_cents: int = 0, account: Account | None = ACCOUNT) -> Draft:
    currency = account.currency if account else "usd"
    return draft_invoice(
        OCTOBER,
        "user-1",
        calls=1,
        usage_cents=Decimal(cents),
        account=account,
        credit=Credit(credit_cents, currency) if credit_cents else None,
        policy=POLICIES.get(policy, Policy()),
    )


@given(
    cents=st.integers(-200, 200),
    credit=st.integers(-120, 120),
    policy=st.sampled_from([CARRY, FORGIVE]),
    currency=st.sampled_from(["usd", "isk", "kwd"]),
)
def test_no_cent_of_a_small_amount_is_lost_or_charged_twice(
    cents: int, credit: int, policy: str, currency: str
) -> None:
    found = draft(str(cents), policy, credit, Account("cus_1", currency))
    usual = draft(str(cents), "stripe", credit, Account("cus_1", currency))

    forgiven = -sum(line.amount_cents for line in found.lines if line.kind == "forgiven")
    assert sum(line.amount_cents for line in found.lines) == found.total_cents
    assert cents == found.total_cents + found.credit_applied_cents + max(0, -found.carried_cents) + forgiven
    if 0 < usual.total_cents < 50:
        assert (found.state, found.total_cents) == (State.SKIPPED, 0)
        assert found.reason is (Reason.SMALL_CARRIED if policy == CARRY else Reason.SMALL_FORGIVEN)
        assert (found.carried_cents < 0) is (policy == CARRY)
    else:
        assert found == usual


def test_what_is_left_says_so_and_a_remainder_that_waits_is_never_forgiven() -> None:
    left = draft("30", CARRY, -15)
    assert [(line.kind, line.description, line.amount_cents) for line in left.lines[1:]] == [
        ("brought_forward", "Brought forward from earlier invoices ($0.15)", 15),
        ("remainder", "Left for the next invoice, below the minimum of $0.50 ($0.45)", -45),
    ]
    assert (left.credit_applied_cents, left.carried_cents) == (-15, -45)
    assert draft("35", CARRY, -15).total_cents == 50

    forgiven = draft("30", FORGIVE, -15)
    assert [(line.kind, line.description, line.amount_cents) for line in forgiven.lines[1:]] == [
        ("forgiven", "Too small to be charged - October 2026 ($0.30)", -30),
    ]
    assert (forgiven.credit_applied_cents, forgiven.carried_cents) == (0, 0)
    assert draft("35", FORGIVE, -15).total_cents == 50


def test_a_bill_that_a_person_must_correct_is_corrected_first() -> None:
    for policy in (CARRY, FORGIVE):
        assert draft("30", policy, account=None).reason is Reason.NO_BILLING_ACCOUNT
        assert draft("30", policy, account=Account(None)).reason is Reason.NO_STRIPE_CUSTOMER
