"""Late rows of a month, in each state that its bill can be in: only what was charged is given back."""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

import pytest

from spell_billing.core.drafting import Account, draft_invoice
from spell_billing.core.outcomes import Reason, State
from spell_billing.core.pricing import Rating
from spell_billing.ledger.rows import Actor, Change
from spell_billing_tests.core.late_usage import late_of
from spell_billing_tests.proof.small_platform import APRIL, JUNE, MARCH, MAY, SmallPlatform

ONE, TWO = "user-0001", "user-0002"
USAGE_CENTS = 1000


def change(platform: SmallPlatform, state: State, reason: Reason | None = None) -> None:
    """Put March's bill into a state, as other parts of the program do."""
    with platform.ledger() as ledger, ledger.session(MARCH, Actor("test")) as session:
        (bill,) = [each for each in session.page(None, after_id=0, limit=10) if each.user_id == ONE]
        session.apply([Change(bill, replace(bill, state=state, reason=reason), "test")])


def billed_march(platform: SmallPlatform) -> None:
    platform.accounts(ONE)
    platform.calls(MARCH, (ONE, 400), (ONE, 600))
    platform.bill(MARCH)


def invoiced(state: State, reason: Reason | None = None) -> Callable[[SmallPlatform], None]:
    def set_up(platform: SmallPlatform) -> None:
        billed_march(platform)
        change(platform, state, reason)

    return set_up


def written_off(platform: SmallPlatform) -> None:
    billed_march(platform)
    platform.void(MARCH, ONE, for_good=True)


def free(platform: SmallPlatform) -> None:
    platform.accounts(ONE, plan_id="all")
    platform.source.plans([{"plan_id": "all", "name": "All", "included_cents": USAGE_CENTS}])
    platform.calls(MARCH, (ONE, 400), (ONE, 600))
    platform.bill(MARCH)
    assert platform.bill_of(MARCH, ONE).state is State.SKIPPED


CHARGED = {
    "finalized": invoiced(State.FINALIZED),
    "paid": invoiced(State.PAID),
    "payment_failed": invoiced(State.PAYMENT_FAILED),
    "billed by hand": invoiced(State.SETTLED, Reason.BILLED_BY_HAND),
}
WRITTEN_OFF = {
    "void for good": written_off,
    "written off": invoiced(State.SETTLED, Reason.WRITTEN_OFF),
    "uncollectible": invoiced(State.UNCOLLECTIBLE),
}
OPEN = {
    "planned": invoiced(State.PLANNED),
    "drafted": invoiced(State.DRAFTED),
    "failed": invoiced(State.FAILED, Reason.NO_BILLING_ACCOUNT),
    "held": invoiced(State.HELD, Reason.HELD_BY_PERSON),
    "parked": invoiced(State.PARKED, Reason.VOIDED_AT_STRIPE),
    "void, to be billed again": invoiced(State.VOID, Reason.VOIDED),
}


def test_every_state_is_gone_through() -> None:
    names = {name.split(",")[0].replace(" ", "_") for name in (*CHARGED, *WRITTEN_OFF, *OPEN)}

    assert names | {"skipped", "settled", "void"} >= {state.value for state in State}


def lose_the_larger_row(platform: SmallPlatform) -> None:
    platform.sql(f"DELETE FROM usage_counters WHERE user_id = '{ONE}' AND cost_cents = 600")


def late_lines(platform: SmallPlatform, *months: object) -> list[tuple[str, int]]:
    return [
        line
        for month in months
        for bill in platform.generations(month, ONE)[-1:]  # type: ignore[arg-type]
        for line in [(each.kind, each.amount_cents) for each in bill.parsed_lines]
        if line[0] not in {"usage", "included"}
    ]


@pytest.mark.parametrize("set_up", CHARGED.values(), ids=CHARGED)
def test_what_was_charged_is_given_back_and_charged_again(
    light_platform: SmallPlatform, set_up: Callable[[SmallPlatform], None]
) -> None:
    set_up(light_platform)
    lose_the_larger_row(light_platform)
    light_platform.draft(APRIL)
    assert late_lines(light_platform, APRIL) == [("late_usage", -600)]
    light_platform.bill(APRIL)

    light_platform.calls(MARCH, (ONE, 600), (ONE, 50))
    light_platform.draft(MAY)

    assert late_lines(light_platform, MAY) == [("late_usage", 650), ("credit", -600)]


@pytest.mark.parametrize("set_up", WRITTEN_OFF.values(), ids=WRITTEN_OFF)
def test_what_was_written_off_is_not_given_back_nor_charged_again(
    light_platform: SmallPlatform, set_up: Callable[[SmallPlatform], None]
) -> None:
    set_up(light_platform)
    lose_the_larger_row(light_platform)
    light_platform.bill(APRIL)
    light_platform.calls(MARCH, (ONE, 600))
    light_platform.bill(MAY)
    light_platform.calls(MARCH, (ONE, 70))
    light_platform.draft(JUNE)

    assert late_lines(light_platform, APRIL, MAY, JUNE) == [
        ("late_usage", 0),
        ("late_usage", 0),
        ("late_usage", 70),
    ]
    assert light_platform.bill_of(APRIL, ONE).carried_cents == 0


@pytest.mark.parametrize("more_cents", [0, 90])
@pytest.mark.parametrize("set_up", OPEN.values(), ids=OPEN)
def test_a_bill_that_is_open_puts_no_amount_on_another_month(
    light_platform: SmallPlatform, set_up: Callable[[SmallPlatform], None], more_cents: int
) -> None:
    set_up(light_platform)
    lose_the_larger_row(light_platform)
    if more_cents:
        light_platform.calls(MARCH, (ONE, more_cents + 600))

    light_platform.bill(APRIL)

    bill = light_platform.bill_of(APRIL, ONE)
    assert (bill.state, bill.total_cents, bill.carried_cents) == (State.SKIPPED, 0, 0)
    assert [line.kind for line in bill.parsed_lines] == ["unbilled"]
    assert "Left for another bill - March 2025" in bill.parsed_lines[0].description


def test_usage_that_the_plan_covered_is_nothing_to_give_back(light_platform: SmallPlatform) -> None:
    free(light_platform)
    lose_the_larger_row(light_platform)
    light_platform.bill(APRIL)
    light_platform.calls(MARCH, (ONE, 650))
    light_platform.bill(MAY)

    assert late_lines(light_platform, APRIL, MAY) == [("late_usage", 0), ("late_usage", 50)]


@pytest.mark.both_databases
@pytest.mark.parametrize("between", [False, True], ids=["at_once", "a_month_between"])
@pytest.mark.parametrize("rows", ["fewer", "more"])
def test_a_bill_that_failed_charges_once_what_the_source_says_when_it_is_drafted_again(
    platform: SmallPlatform, rows: str, *, between: bool
) -> None:
    platform.calls(MARCH, (ONE, 400), (ONE, 600))
    platform.accounts(TWO)
    platform.bill(MARCH)
    assert platform.bill_of(MARCH, ONE).reason is Reason.NO_BILLING_ACCOUNT
    if rows == "fewer":
        lose_the_larger_row(platform)
    else:
        platform.calls(MARCH, (ONE, 50))
    if between:
        platform.calls(APRIL, (ONE, 80), (TWO, 30))
        platform.bill(APRIL)
    platform.accounts(ONE)

    platform.bill(MARCH)
    platform.bill(APRIL)
    platform.bill(MARCH)
    platform.bill(MAY)

    owed = (400 if rows == "fewer" else 1050) + (80 if between else 0)
    assert platform.bill_of(MARCH, ONE).state is State.FINALIZED
    assert sum(each.total_cents for each in platform.standing() if each.customer == f"cus_{ONE}") == owed
    for month in (MARCH, APRIL, MAY):
        platform.must_agree(month)


def test_rows_that_change_each_time_a_bill_fails_are_charged_as_they_are_in_the_end(
    light_platform: SmallPlatform,
) -> None:
    light_platform.calls(MARCH, (ONE, 400))
    for cents in (100, 20, 3):
        light_platform.bill(MARCH)
        light_platform.calls(MARCH, (ONE, cents))
    light_platform.accounts(ONE)

    light_platform.bill(MARCH)
    light_platform.bill(APRIL)

    assert light_platform.bill_of(MARCH, ONE).total_cents == 523
    assert [each.total_cents for each in light_platform.standing()] == [523]


def test_a_bill_that_is_planned_leaves_its_difference_for_the_month_after_the_next(
    light_platform: SmallPlatform,
) -> None:
    invoiced(State.PLANNED)(light_platform)
    lose_the_larger_row(light_platform)
    light_platform.bill(APRIL)
    change(light_platform, State.FINALIZED)
    light_platform.calls(MAY, (ONE, 900))

    light_platform.bill(MAY)

    assert light_platform.lines(MAY, ONE) == [("usage", 900), ("adjustment", -600)]


def test_an_invoice_that_is_voided_charges_what_the_source_says_when_it_is_billed_again(
    light_platform: SmallPlatform,
) -> None:
    billed_march(light_platform)
    light_platform.void(MARCH, ONE)
    lose_the_larger_row(light_platform)

    light_platform.bill(MARCH)
    light_platform.bill(APRIL)

    assert light_platform.lines(MARCH, ONE) == [("usage", 1000), ("late_usage", -600)]
    assert [each.total_cents for each in light_platform.standing()] == [400]
    light_platform.must_agree(MARCH)


def test_a_late_line_on_a_bill_that_was_written_off_is_given_back_with_a_later_one(
    light_platform: SmallPlatform,
) -> None:
    billed_march(light_platform)
    lose_the_larger_row(light_platform)
    light_platform.calls(APRIL, (ONE, 5000))
    light_platform.bill(APRIL)
    assert light_platform.lines(APRIL, ONE) == [("usage", 5000), ("late_usage", -600)]
    light_platform.void(APRIL, ONE, for_good=True)
    light_platform.calls(MAY, (ONE, 900))

    light_platform.bill(MAY)
    light_platform.bill(JUNE)

    assert light_platform.lines(MAY, ONE) == [("usage", 900), ("adjustment", -600)]
    assert sum(each.total_cents for each in light_platform.standing()) == 1000 + 300


def test_a_plan_covers_what_came_late_as_if_it_had_been_on_time(platform: SmallPlatform) -> None:
    platform.source.plans([{"plan_id": "pro", "name": "Pro", "included_cents": 500}])
    platform.accounts(ONE, TWO, plan_id="pro")
    platform.calls(MARCH, (ONE, 1))
    platform.bill(MARCH)
    platform.calls(MARCH, (ONE, 300), (TWO, 300))

    platform.bill(APRIL)
    assert platform.lines(APRIL, ONE) == platform.lines(APRIL, TWO) == [("late_usage", 0)]
    platform.sql("UPDATE billing_accounts SET plan_id = NULL")
    platform.calls(MARCH, (ONE, 300), (TWO, 300))
    platform.bill(MAY)

    # Of both, March goes on as it was first rated.
    assert platform.lines(MAY, ONE) == [("late_usage", 101)]
    assert platform.lines(MAY, TWO) == [("late_usage", 100)]


def test_a_late_amount_in_another_currency_holds_the_bill_and_one_of_nothing_does_not() -> None:
    def draft(cents: int) -> tuple[State, Reason | None]:
        late = late_of(MARCH, 1, Decimal(cents), currency="eur", rating=Rating(100))
        found = draft_invoice(
            APRIL, ONE, calls=0, usage_cents=Decimal(0), account=Account("cus_1"), late=[late]
        )
        return found.state, found.reason

    assert draft(100) == (State.SKIPPED, Reason.NO_CHARGE)
    assert draft(101) == (State.HELD, Reason.CURRENCY_CHANGED)
