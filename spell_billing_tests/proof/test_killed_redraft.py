"""A run that is killed between recording what came since and drafting it loses none of it."""

from dataclasses import replace

import pytest

from spell_billing.core.errors import MonthLockedError, UsageError
from spell_billing.usage.store import UsageStore
from spell_billing_tests.proof.small_platform import APRIL, MARCH, SmallPlatform

ONE, WAITS = "user-0001", "user-0002"


class KilledError(BaseException):
    """The process ended here."""


@pytest.fixture
def killed(platform: SmallPlatform, monkeypatch: pytest.MonkeyPatch) -> SmallPlatform:
    """Bill March for one user, and kill the run that would draft the other one again with 40 cents more."""

    def kill(*_: object, **__: object) -> None:
        raise KilledError

    platform.accounts(ONE)
    platform.calls(MARCH, (ONE, 10), (WAITS, 300))
    platform.bill(MARCH)
    platform.calls(MARCH, (WAITS, 40))
    platform.accounts(WAITS)
    with monkeypatch.context() as patch:
        patch.setattr("spell_billing_tests.proof.small_platform.draft_month", kill)
        with pytest.raises(KilledError):
            platform.draft(MARCH)
    assert len(platform.store.version(MARCH, "v0001").supplements) == 1
    return platform


def bill_at_stripe(platform: SmallPlatform) -> None:
    """Let another ledger at this account bill March as it was frozen."""
    what = {"spell_month": "2025-03", "spell_calls": "1"}
    platform.person_bills(
        f"cus_{WAITS}",
        300,
        spell_month="2025-03",
        spell_calls="1",
        spell_generation="1",
        spell_user_id=WAITS,
        spell_billing_key=f"spell:2025-03:{WAITS}:g1",
    )
    invoice = next(each for each in platform.double.invoices() if each.customer == f"cus_{WAITS}")
    line = replace(invoice.lines[0], metadata={**what, "spell_kind": "usage", "spell_usage_cents": "300"})
    platform.double.state.put_invoice(replace(invoice, lines=(line,)))


def test_an_invoice_adopted_after_it_leaves_the_difference_for_the_next_month(killed: SmallPlatform) -> None:
    bill_at_stripe(killed)
    with pytest.raises(MonthLockedError, match="Updating the drafts of 2025-03 was interrupted"):
        killed.send(MARCH)

    killed.bill(MARCH)
    killed.bill(APRIL)

    assert killed.bill_of(MARCH, WAITS).total_cents == 300
    assert killed.lines(APRIL, WAITS) == [("adjustment", 40)]
    for month in (MARCH, APRIL):
        killed.must_agree(month)


def test_nobody_settles_the_bill_before_it_holds_the_difference(killed: SmallPlatform) -> None:
    with pytest.raises(MonthLockedError, match="spell-billing bill --month 2025-03"):
        killed.settle(MARCH, WAITS)
    killed.bill(MARCH)
    assert killed.bill_of(MARCH, WAITS).total_cents == 340
    killed.must_agree(MARCH)


def test_a_next_run_that_fails_to_read_the_source_leaves_it_kept(
    killed: SmallPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: object) -> None:
        raise UsageError("The usage database does not answer.", remedy="Try again.")

    with monkeypatch.context() as patch:
        patch.setattr(UsageStore, "supplement", unreadable)
        with pytest.raises(UsageError):
            killed.draft(MARCH)
    with pytest.raises(MonthLockedError, match="was interrupted"):
        killed.settle(MARCH, WAITS)


def test_a_source_that_cannot_be_read_leaves_a_month_without_an_interrupted_run_free(
    platform: SmallPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: object) -> None:
        raise UsageError("The usage database does not answer.", remedy="Try again.")

    platform.accounts(ONE)
    platform.calls(MARCH, (ONE, 10), (WAITS, 300))
    platform.bill(MARCH)
    with monkeypatch.context() as patch:
        patch.setattr(UsageStore, "supplement", unreadable)
        with pytest.raises(UsageError):
            platform.draft(MARCH)
    platform.settle(MARCH, WAITS)
