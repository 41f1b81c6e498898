"""A credit that no bill can offer, because the account is in another currency now, is settled by a person."""

import pytest

from spell_billing.core.errors import LedgerError
from spell_billing.core.outcomes import State
from spell_billing.ledger.credits import credits_of, settle_credit
from spell_billing.ledger.rows import Actor
from spell_billing_tests.proof.small_platform import APRIL, MARCH, MAY, SmallPlatform

ONE = "user-0001"


def settle(platform: SmallPlatform, currency: str) -> int:
    with platform.ledger() as ledger, ledger.writing() as connection:
        credit = settle_credit(connection, APRIL, ONE, currency, reason="paid out", actor=Actor("support"))
    return credit.amount_cents


@pytest.mark.both_databases
def test_credits_in_two_currencies_are_both_kept_and_a_settled_one_holds_no_bill(
    platform: SmallPlatform,
) -> None:
    platform.accounts(ONE, currency="eur")
    platform.calls(MARCH, (ONE, -1))
    platform.bill(MARCH)
    platform.sql("UPDATE billing_accounts SET currency = 'usd'")
    platform.calls(MARCH.previous(), (ONE, -300))
    platform.bill(MARCH.previous())
    platform.calls(APRIL, (ONE, 900))
    platform.bill(APRIL)
    assert platform.bill_of(APRIL, ONE).state is State.HELD
    with pytest.raises(LedgerError, match=r"has no credit in gbp that is left: €0\.01"):
        settle(platform, "gbp")

    assert platform.explain(APRIL, ONE)["answer"].endswith(" Credit that is left: €0.01 (eur).")

    assert settle(platform, "eur") == 1
    platform.bill(APRIL)
    platform.bill(MAY)

    assert "Credit that is left" not in platform.explain(APRIL, ONE)["answer"]
    assert platform.lines(APRIL, ONE) == [("usage", 900), ("credit", -300)]
    assert [each.total_cents for each in platform.standing()] == [600]
    assert platform.trail(APRIL, ONE)[-1]["action"] != "credit_settled"
    assert "credit_settled" in [entry["action"] for entry in platform.trail(APRIL, ONE)]
    with platform.ledger() as ledger, ledger.reading() as connection:
        assert credits_of(connection, ONE) == []
    decided = platform.trail(APRIL, ONE)
    assert settle(platform, "eur") == 0, "it was settled before"
    assert platform.trail(APRIL, ONE) == decided
    with pytest.raises(LedgerError, match="none in any currency"):
        settle(platform, "gbp")
