"""A ledger or a usage store from before a month was billed again, beside the other one as it went on."""

import shutil

import pytest

from spell_billing.core.errors import IntegrityError, LedgerError, UsageError
from spell_billing.invoicing.usage_versions import earlier_versions
from spell_billing_tests.exactly_once.ledgers import Image, image_of, put_back
from spell_billing_tests.proof.small_platform import APRIL, MARCH, MAY, SmallPlatform

ONE = "user-0001"


def billed_again(platform: SmallPlatform, *late_cents: int) -> Image:
    """Void March's invoice and bill it again with late rows, for each once; give the ledger from before."""
    before = image_of(platform.url)
    for cents in late_cents:
        platform.void(MARCH, ONE)
        platform.calls(MARCH, (ONE, cents))
        platform.bill(MARCH)
    return before


def restore(platform: SmallPlatform, before: Image, *late_cents: int) -> None:
    """Put the ledger back; the platform's rows, in the same database, stay."""
    put_back(platform.url, before)
    platform.calls(MARCH, *((ONE, cents) for cents in late_cents))


def not_compared(platform: SmallPlatform) -> dict[str, str]:
    with platform.ledger() as ledger:
        return earlier_versions(ledger, platform.store, APRIL)[1]


@pytest.mark.parametrize("late_cents", [(50,), (-50,), (50, 7), (50, -50)], ids=str)
def test_a_ledger_from_before_a_corrected_bill_adopts_it_as_it_was_billed(
    light_billed: SmallPlatform, late_cents: tuple[int, ...]
) -> None:
    before = billed_again(light_billed, *late_cents)
    as_billed = light_billed.lines(MARCH, ONE)
    restore(light_billed, before, *late_cents)

    light_billed.bill(MARCH, verify=True)

    assert light_billed.lines(MARCH, ONE) == as_billed
    light_billed.must_agree(MARCH)
    light_billed.calls(APRIL, (ONE, 100))
    light_billed.bill(APRIL)
    assert light_billed.lines(APRIL, ONE) == [("usage", 100)]


def test_before_such_a_ledger_is_verified_the_month_is_named_and_nothing_is_charged_for_it(
    light_billed: SmallPlatform,
) -> None:
    restore(light_billed, billed_again(light_billed, 50), 50)

    assert "run spell-billing bill --month 2025-03 --verify." in not_compared(light_billed)["2025-03"]
    light_billed.calls(APRIL, (ONE, 100))
    light_billed.bill(APRIL)
    light_billed.bill(MARCH, verify=True)
    light_billed.calls(MAY, (ONE, 100))
    light_billed.bill(MAY)

    assert not_compared(light_billed) == {}
    assert light_billed.lines(APRIL, ONE) == light_billed.lines(MAY, ONE) == [("usage", 100)]


def test_a_ledger_and_a_store_from_before_it_charge_late_rows_once(light_billed: SmallPlatform) -> None:
    restore(light_billed, billed_again(light_billed, 50), 50)
    shutil.rmtree(light_billed.store_path / "2025-03" / "v0001" / "since_0001")

    light_billed.bill(MARCH, verify=True)

    light_billed.calls(APRIL, (ONE, 100))
    light_billed.bill(APRIL)
    assert light_billed.bill_of(APRIL, ONE).total_cents == 100


def test_what_came_since_a_freeze_and_is_lost_is_named_and_not_charged_again(
    light_billed: SmallPlatform,
) -> None:
    billed_again(light_billed, 50)
    lost = light_billed.store_path / "2025-03" / "v0001" / "since_0001"
    kept = light_billed.store_path / "kept"
    lost.rename(kept)

    assert "Restore 2025-03/v0001/since_0001 from a backup" in not_compared(light_billed)["2025-03"]
    light_billed.calls(APRIL, (ONE, 100))
    light_billed.bill(APRIL)
    kept.rename(lost)
    light_billed.calls(MARCH, (ONE, 3))
    light_billed.calls(MAY, (ONE, 100))
    light_billed.bill(MAY)

    assert light_billed.lines(APRIL, ONE) == [("usage", 100)]
    assert light_billed.lines(MAY, ONE) == [("usage", 100), ("late_usage", 3)]


def test_of_several_the_one_that_is_lost_is_named(light_billed: SmallPlatform) -> None:
    billed_again(light_billed, 50, 7)
    shutil.rmtree(light_billed.store_path / "2025-03" / "v0001" / "since_0001")

    with pytest.raises(UsageError, match="2025-03/v0001/since_0001 is not in"):
        light_billed.store.version(MARCH, "v0001")

    assert "2025-03/v0001/since_0001 is not in" in not_compared(light_billed)["2025-03"]


@pytest.mark.parametrize("name", ["rows.parquet", "since_0001/late_usage.parquet"])
def test_a_file_that_was_not_restored_is_named_by_reconcile(light_billed: SmallPlatform, name: str) -> None:
    billed_again(light_billed, 50)
    (light_billed.store_path / "2025-03" / "v0001" / name).unlink()

    with pytest.raises(IntegrityError, match=f"2025-03/v0001/{name} is missing"):
        light_billed.reconcile(MARCH)


def test_a_month_waits_for_earlier_ones_that_a_ledger_from_before_lacks(light_billed: SmallPlatform) -> None:
    before = image_of(light_billed.url)
    light_billed.calls(MARCH, (ONE, 50))
    light_billed.calls(APRIL, (ONE, 100))
    light_billed.bill(APRIL)
    restore(light_billed, before, 50)
    light_billed.calls(APRIL, (ONE, 100))
    light_billed.calls(MAY, (ONE, 100))

    with pytest.raises(
        LedgerError, match="Run first: spell-billing bill --month 2025-04 --verify"
    ) as refused:
        light_billed.bill(MAY)
    assert refused.value.message.startswith("Stripe has invoices of 2025-04, which this ledger never billed")
    light_billed.bill(APRIL, verify=True)
    light_billed.bill(MAY)

    assert light_billed.lines(APRIL, ONE) == [("usage", 100), ("late_usage", 50)]
    assert light_billed.lines(MAY, ONE) == [("usage", 100)]


def test_that_decisions_are_lost_with_a_ledger_is_said_once(
    light_billed: SmallPlatform, caplog: pytest.LogCaptureFixture
) -> None:
    said = "lacks what people decided since then"
    light_billed.calls(APRIL, (ONE, 100))
    light_billed.draft(APRIL)
    before = image_of(light_billed.url)
    light_billed.send(APRIL)
    assert said not in caplog.text
    put_back(light_billed.url, before)

    light_billed.bill(APRIL)
    assert caplog.text.count(said) == 1
    light_billed.bill(APRIL, verify=True)

    assert caplog.text.count(said) == 1


def test_a_month_that_nobody_billed_keeps_no_later_one_back(light_billed: SmallPlatform) -> None:
    light_billed.calls(MAY, (ONE, 100))

    light_billed.bill(MAY)

    assert light_billed.lines(MAY, ONE) == [("usage", 100)]
