"""Who may use a credit does not change while a bill that uses it is about to be sent."""

from collections.abc import Callable

import pytest

from spell_billing.core.errors import LedgerError
from spell_billing.ledger.moves import record_move, record_undo
from spell_billing.ledger.rows import Actor
from spell_billing_tests.proof.small_platform import APRIL, JUNE, MARCH, MAY, NOW, SmallPlatform

OLD, WRONG, RIGHT = "user-0001", "user-0002", "user-0003"
Correct = Callable[[SmallPlatform], object]


def move(platform: SmallPlatform, to_user: str) -> None:
    with platform.ledger() as ledger, ledger.writing() as connection:
        record_move(
            connection,
            OLD,
            to_user,
            reason="merged",
            actor=Actor("support"),
            has_usage=lambda _: True,
            now=NOW,
        )


def undo(platform: SmallPlatform) -> None:
    with platform.ledger() as ledger, ledger.writing() as connection:
        record_undo(connection, OLD, reason="nothing moved", actor=Actor("support"), now=NOW)


def begin(platform: SmallPlatform, month: object) -> None:
    """Leave the month as `bill --first` does: begun, and some of its bills not sent."""
    platform.draft(month)  # type: ignore[arg-type]
    with platform.ledger() as ledger, ledger.session(month, Actor("tester")) as session:  # type: ignore[arg-type]
        session.start_billing()


@pytest.mark.parametrize("correct", [undo, lambda platform: move(platform, RIGHT)], ids=["undo", "other"])
def test_a_wrong_target_is_corrected_once_its_bill_is_sent_and_pays_back_what_it_used(
    light_platform: SmallPlatform, correct: Correct
) -> None:
    light_platform.accounts(OLD, WRONG, RIGHT)
    light_platform.calls(MARCH, (OLD, -500), (WRONG, 100), (RIGHT, 100))
    light_platform.bill(MARCH)
    move(light_platform, WRONG)
    light_platform.calls(APRIL, (WRONG, 900))
    begin(light_platform, APRIL)

    with pytest.raises(LedgerError, match=f"bill of user {WRONG} for 2025-04 uses a credit, and is not sent"):
        correct(light_platform)
    light_platform.bill(APRIL)
    correct(light_platform)
    light_platform.calls(MAY, (OLD, 900), (WRONG, 900), (RIGHT, 900))
    light_platform.bill(MAY)

    assert light_platform.lines(MAY, WRONG) == [("usage", 900), ("brought_forward", 500)]
    assert sum(each.total_cents for each in light_platform.standing()) == 200 + 900 + 3 * 900 - 500
    for month in (MARCH, APRIL, MAY):
        light_platform.must_agree(month)


@pytest.mark.parametrize("how", ["billed-by-hand", "written-off"])
def test_a_void_bill_is_settled_once_the_bill_that_used_its_credit_since_is_sent(
    light_platform: SmallPlatform, how: str
) -> None:
    light_platform.accounts(OLD)
    light_platform.calls(MARCH, (OLD, -500))
    light_platform.bill(MARCH)
    light_platform.calls(APRIL, (OLD, 900))
    light_platform.bill(APRIL)
    light_platform.void(APRIL, OLD)
    light_platform.calls(MAY, (OLD, 900))
    begin(light_platform, MAY)

    with pytest.raises(LedgerError, match=f"bill of user {OLD} for 2025-05 uses a credit, and is not sent"):
        light_platform.settle(APRIL, OLD, how)
    light_platform.bill(MAY)
    light_platform.settle(APRIL, OLD, how)
    light_platform.calls(JUNE, (OLD, 900))
    light_platform.bill(JUNE)

    # April was settled at 400, after the credit.
    assert sum(each.total_cents for each in light_platform.standing()) + 400 == 3 * 900 - 500
    for month in (MARCH, APRIL, MAY, JUNE):
        light_platform.must_agree(month)
