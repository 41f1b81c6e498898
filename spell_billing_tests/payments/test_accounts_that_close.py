"""What one month leaves for another is in the journal until it is used, and then in no account."""

import random
from collections import Counter

import pytest

from spell_billing.core.terms import Policy
from spell_billing.ledger.schema import invoices
from spell_billing.reporting.journal import Account, read_journal
from spell_billing_tests.payments.test_money_back import credit_note
from spell_billing_tests.payments.world import ONE, TWO, World
from spell_billing_tests.proof.small_platform import APRIL, JUNE, MARCH, MAY

MONTHS = (MARCH, APRIL, MAY, JUNE)
CLOSING = (Account.RECEIVABLE, Account.CARRIED, Account.CUSTOMER_BALANCE)


def balances(world: World) -> Counter[Account]:
    """Sum the journals of all months by account, debits above zero."""
    found: Counter[Account] = Counter()
    with world.ledger() as ledger, ledger.reading() as connection:
        for month in MONTHS:
            for each in read_journal(connection, month):
                found[each.account] += each.debit_cents - each.credit_cents
    return found


def close(world: World) -> None:
    """Let users use so much in June that nothing is left for a later month."""
    world.platform.policy = Policy()
    world.platform.calls(JUNE, (ONE, 40_000), (TWO, 40_000))
    world.platform.bill(JUNE)
    world.advance(days=31)
    world.tick()


@pytest.fixture
def empty(small_world: World) -> World:
    """Give a world of two users with cards, and no month that is billed."""
    small_world.platform.accounts(ONE, TWO)
    return small_world


@pytest.mark.parametrize("is_ours", [True, False])
def test_what_a_credit_note_gives_to_the_balance_is_used_by_the_next_invoice(
    empty: World, *, is_ours: bool
) -> None:
    empty.platform.calls(MARCH, (ONE, 1000))
    empty.platform.bill(MARCH)
    empty.advance(days=31)
    empty.tick()
    if is_ours:
        empty.platform.credit(MARCH, ONE, 300, to_balance=True)
    else:
        credit_note(empty, ONE, 300, credit_amount=300)
        empty.tick()
    assert balances(empty)[Account.CUSTOMER_BALANCE] == -300, "Stripe owes it to the customer"

    close(empty)

    after = balances(empty)
    assert [after[each] for each in CLOSING] == [0, 0, 0]
    assert (after[Account.CASH], after[Account.CREDIT_NOTES]) == (80_700, 300)


@pytest.mark.both_databases
@pytest.mark.parametrize(
    ("march", "by_hand_cents", "in_the_ledger"),
    [
        pytest.param(1000, -500, 500, id="a credit"),
        pytest.param(1000, 500, -500, id="a charge"),
        # Stripe had moved the 20 cents to the next invoice: the credit paid these, too.
        pytest.param(20, -520, 520, id="a credit beside what Stripe moved"),
    ],
)
def test_what_a_person_puts_on_a_balance_is_named_once_an_invoice_uses_it(
    empty: World, march: int, by_hand_cents: int, in_the_ledger: int
) -> None:
    empty.platform.calls(MARCH, (ONE, march))
    empty.platform.bill(MARCH)
    empty.advance(days=31)
    empty.tick()
    empty.double.engine.account.shift_balance(f"cus_{ONE}", "usd", by_hand_cents)

    close(empty)

    after = balances(empty)
    assert [after[each] for each in CLOSING] == [0, 0, 0]
    assert after[Account.BALANCE_BY_HAND] == in_the_ledger
    assert after[Account.CASH] + in_the_ledger == 80_000 + march
    assert [empty.platform.imbalances(month) for month in MONTHS] == [[], [], [], []]


def test_a_small_amount_and_a_credit_are_used_in_one_sum(empty: World) -> None:
    empty.platform.policy = Policy(small_amounts="carry", minimum_cents=50)
    for month, cents in ((MARCH, 30), (APRIL, -20), (MAY, 1000)):
        empty.platform.calls(month, (ONE, cents))
        empty.platform.bill(month)
        empty.advance(days=31)
        empty.tick()

    assert +balances(empty) == {Account.CASH: 1010}
    assert empty.platform.lines(MAY, ONE) == [("usage", 1000), ("brought_forward", 10)]


def test_what_bills_carried_must_be_in_the_journal(empty: World) -> None:
    empty.platform.policy = Policy(small_amounts="carry", minimum_cents=50)
    empty.platform.calls(MARCH, (ONE, 30))
    empty.platform.bill(MARCH)
    assert empty.platform.imbalances(MARCH) == []
    with empty.ledger() as ledger, ledger.writing() as connection:
        connection.execute(invoices.update().values(carried_cents=-20))

    assert empty.platform.imbalances(MARCH) == [
        "carried_amounts in usd: 10 minor units more by the journal than by the bills."
    ]


@pytest.mark.parametrize("seed", range(6))
def test_when_all_is_used_and_paid_each_account_between_months_is_empty(empty: World, seed: int) -> None:
    chance, platform = random.Random(seed), empty.platform  # noqa: S311 - the same months each time
    for month in MONTHS[:-1]:
        platform.policy = Policy(small_amounts=chance.choice(["stripe", "carry"]), minimum_cents=100)
        for user in (ONE, TWO):
            for of in (month, chance.choice(MONTHS[:-1])):
                if of <= month:
                    platform.calls(of, (user, chance.choice([5, 20, 45, 130, 777, -30, -400])))
        platform.bill(month)
        empty.advance(days=31)
        empty.tick()
        for user in (ONE, TWO):
            paid = platform.generations(month, user)
            if paid and paid[-1].state == "paid" and paid[-1].total_cents > 50:
                platform.credit(month, user, 10, "to the balance", to_balance=True)
                platform.credit(month, user, 7, "to the balance")
        assert platform.imbalances(month) == []

    close(empty)

    found = balances(empty)
    assert {each: found[each] for each in CLOSING} == dict.fromkeys(CLOSING, 0)
    assert found[Account.BALANCE_BY_HAND] == 0
    assert all(platform.imbalances(month) == [] for month in MONTHS)
