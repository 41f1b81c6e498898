"""`credit` gives money back exactly once, whatever happens on the way, and everything knows of it."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from spell_billing.core.errors import LedgerError, StripeAccountError
from spell_billing.ledger.credit_notes import CreditKind, CreditNote
from spell_billing.ledger.feed import read_feed
from spell_billing.ledger.session import MonthSession
from spell_billing_tests.payments.test_money_back import credit_note, kept, refund
from spell_billing_tests.payments.world import ONE, TWO, World
from spell_billing_tests.proof.small_platform import MARCH


class Killed(BaseException):
    """The process died here."""


def credit(
    world: World, user: str, cents: int | None, reason: str = "agreed", *, to_balance: bool = False
) -> CreditNote:
    return world.platform.credit(MARCH, user, cents, reason, to_balance=to_balance)


@pytest.fixture
def world_of_two(world: World) -> World:
    """Give a world in which ONE paid $10.00 and TWO's card was declined."""
    world.bill(ONE, TWO, cards={TWO: "declined"})
    world.advance()
    world.tick()
    return world


def notes(world: World) -> list[int]:
    return [each.amount_cents for each in world.double.state.credit_notes]


def test_a_paid_invoice_is_refunded_to_the_card(world_of_two: World) -> None:
    note = credit(world_of_two, ONE, 400)

    assert (note.kind, note.cents) == (CreditKind.REFUND, 400)
    assert kept(world_of_two).refunded_cents == 400
    assert kept(world_of_two).kept_cents == 600
    world_of_two.tick()
    assert not any("refunded" in text for text in world_of_two.web.texts), "operators issued it themselves"
    entries = [e["action"] for e in world_of_two.platform.trail(MARCH, ONE) if "credit" in e["action"]]
    assert entries == ["credit_requested", "credited"]
    with world_of_two.ledger() as ledger, ledger.reading() as connection:
        feed = [each for _, each in read_feed(connection, after=0, until=10**9, limit=100)]
    (told,) = [each for each in feed if each.type == "invoice.credited"]
    assert (told.user_id, told.total_cents, told.currency) == (ONE, 400, "usd")
    world_of_two.platform.must_agree(MARCH)


def test_a_paid_invoice_is_credited_to_the_balance(world_of_two: World) -> None:
    note = credit(world_of_two, ONE, None, to_balance=True)

    assert (note.kind, note.cents) == (CreditKind.BALANCE, 1000)
    assert kept(world_of_two).kept_cents == 1000
    assert world_of_two.double.state.customers.get(f"cus_{ONE}").balances_cents == {"usd": -1000}


def test_an_open_invoice_is_lowered(world_of_two: World) -> None:
    note = credit(world_of_two, TWO, 300)

    assert note.kind is CreditKind.REDUCE
    assert kept(world_of_two).due_cents == 700
    credit(world_of_two, TWO, None, "all of it")
    assert world_of_two.state(TWO) == "paid"
    assert kept(world_of_two).kept_cents == 1000
    assert notes(world_of_two) == [300, 700]
    world_of_two.platform.must_agree(MARCH)


def test_all_is_what_is_left_although_some_was_credited_for_the_same_reason(world_of_two: World) -> None:
    credit(world_of_two, ONE, 100)

    rest = credit(world_of_two, ONE, None)

    assert rest.cents == 900
    assert credit(world_of_two, ONE, None) == rest
    assert notes(world_of_two) == [100, 900]
    world_of_two.platform.must_agree(MARCH)


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("to_balance", [True, False])
@pytest.mark.parametrize("way", ["refund", "note", "dispute"])
def test_what_went_back_without_our_commands_is_not_left(
    world_of_two: World, way: str, *, to_balance: bool, is_known: bool
) -> None:
    if way == "refund":
        refund(world_of_two, ONE, 400)
    elif way == "note":
        credit_note(world_of_two, ONE, 400, refund_amount=400)
    else:
        world_of_two.double.dispute(world_of_two.invoice_id(ONE), amount_cents=400)
    if is_known:
        world_of_two.tick()

    with pytest.raises(LedgerError, match=r"^\$6.00 of invoice .* can be credited, not \$7.00"):
        credit(world_of_two, ONE, 700, to_balance=to_balance)
    assert credit(world_of_two, ONE, None, to_balance=to_balance).cents == 600

    with pytest.raises(LedgerError, match=r"^\$0.00 of invoice .* can be credited: "):
        credit(world_of_two, ONE, None, "once more", to_balance=to_balance)
    balance = world_of_two.double.state.customers.get(f"cus_{ONE}").balances_cents
    assert balance.get("usd", 0) == (-600 if to_balance else 0)
    world_of_two.tick()
    world_of_two.platform.must_agree(MARCH)


def test_a_dispute_that_was_won_is_left_to_give_back(world_of_two: World) -> None:
    world_of_two.double.dispute(world_of_two.invoice_id(ONE), outcome="won")

    assert credit(world_of_two, ONE, None).cents == 1000


def test_no_more_goes_to_a_card_than_it_paid(world: World) -> None:
    world.platform.accounts(ONE)
    world.double.add_customer(f"cus_{ONE}", balance_cents=-400)
    world.platform.calls(MARCH, (ONE, 1000))
    world.platform.bill(MARCH)
    world.advance()
    world.tick()

    with pytest.raises(LedgerError, match=r"^\$6.00 of invoice .* can go back to the card, not \$10.00"):
        credit(world, ONE, None)
    credit(world, ONE, 600)
    credit(world, ONE, None, to_balance=True)

    assert notes(world) == [600, 400]


def test_no_part_of_a_coin_is_credited(world: World) -> None:
    world.platform.accounts(ONE, currency="kwd")
    world.double.add_customer(f"cus_{ONE}", card="declined")
    world.platform.calls(MARCH, (ONE, 1000))
    world.platform.bill(MARCH)

    with pytest.raises(LedgerError, match=r"^0.005 KWD cannot be paid: amounts in kwd are multiples of 10 "):
        credit(world, ONE, 5)
    credit(world, ONE, 10)

    assert notes(world) == [10]


def test_to_repeat_a_credit_changes_nothing_and_another_reason_is_another_credit(world_of_two: World) -> None:
    first = credit(world_of_two, ONE, 400)
    assert credit(world_of_two, ONE, 400) == first
    credit(world_of_two, ONE, 400, "once more")

    assert notes(world_of_two) == [400, 400]
    with pytest.raises(LedgerError, match=r"\$2.00 of invoice .* can be credited, not \$4.00"):
        credit(world_of_two, ONE, 400, "too much")


@pytest.mark.parametrize("user", [ONE, TWO])
@pytest.mark.parametrize(
    "fault",
    [
        *("lost_before", "lost_after", "error_500_before", "error_500_after", "error_500_unstored"),
        *("truncated", "conflict_409", "lock_timeout"),
    ],
)
@pytest.mark.parametrize("times", [1, 50])
def test_a_fault_at_the_request_issues_it_once(
    world_of_two: World, user: str, fault: Any, times: int
) -> None:
    world_of_two.double.arm(fault, operation="credit_notes.create", times=times)
    with suppress(StripeAccountError):
        credit(world_of_two, user, 400)
    world_of_two.double.disarm()

    note = credit(world_of_two, user, 400)

    assert notes(world_of_two) == [400]
    assert note.outcome == "issued"


@pytest.mark.parametrize("at", range(1, 5))
@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize("expired", [True, False])
def test_a_kill_at_any_commit_issues_it_once(
    world_of_two: World, monkeypatch: pytest.MonkeyPatch, at: int, *, committed: bool, expired: bool
) -> None:
    real, commits = MonthSession.writing, 0

    @contextmanager
    def dying(self: MonthSession) -> Iterator[Any]:
        nonlocal commits
        commits += 1
        with real(self) as connection:
            yield connection
            if commits == at and not committed:
                raise Killed
        if commits == at and committed:
            raise Killed

    with monkeypatch.context() as patch, suppress(Killed):
        patch.setattr(MonthSession, "writing", dying)
        credit(world_of_two, ONE, 400)
    if expired:
        world_of_two.double.expire_all_keys()

    credit(world_of_two, ONE, 400)

    assert commits >= min(at, 3)
    assert notes(world_of_two) == [400]
    assert kept(world_of_two).refunded_cents == 400


def test_a_lost_ledger_takes_over_what_was_issued(world_of_two: World) -> None:
    credit(world_of_two, ONE, 400)
    world_of_two.platform.sql("DELETE FROM ledger_credit_notes")
    world_of_two.double.expire_all_keys()

    credit(world_of_two, ONE, 400)
    assert notes(world_of_two) == [400]
    credit(world_of_two, ONE, 100, "another")

    assert notes(world_of_two) == [400, 100]


def test_what_cannot_be_credited_is_refused_in_a_sentence(world_of_two: World) -> None:
    with pytest.raises(LedgerError, match="User user-9999 has no bill for 2025-03"):
        credit(world_of_two, "user-9999", 100)
    world_of_two.platform.void(MARCH, TWO)
    with pytest.raises(LedgerError, match="is void: there is no invoice to credit"):
        credit(world_of_two, TWO, 100)
    with pytest.raises(LedgerError) as paid:
        world_of_two.platform.void(MARCH, ONE)
    assert "spell-billing credit --month 2025-03" in paid.value.remedy
