"""A ledger that was restored from a backup, through the commands: what people decided since is asked for."""

from collections.abc import Callable
from typing import Any

import pytest

from spell_billing_tests.exactly_once.ledgers import image_of, put_back

ONE, TWO = "user-0001", "user-0002"
MARCH, APRIL, MAY, JUNE = (f"2025-{number:02}" for number in (3, 4, 5, 6))


@pytest.fixture
def shop(make_shop: Callable[..., Any]) -> Any:
    """Give a shop with four months of usage, whose first user has an account."""
    shop = make_shop("sqlite", ready=True)
    shop.accounts(ONE)
    for month in (MARCH, APRIL, MAY, JUNE):
        shop.calls(month, (ONE, 1_000))
    return shop


def done(shop: Any, *arguments: str, code: int = 0) -> str:
    """Run a command that must end with the code; give what it said, on one line."""
    ended = shop.run(*arguments)
    assert ended.returncode == code, ended.stdout + ended.stderr
    return " ".join((ended.stdout + ended.stderr).split())


def invoices(shop: Any) -> int:
    return sum(1 for invoice in shop.double.invoices() if invoice.status != "draft")


def test_a_bill_whose_settling_a_restored_ledger_lacks_is_held_and_not_charged(shop: Any) -> None:
    shop.calls(MARCH, (TWO, 700))
    before = image_of(shop.url)
    done(shop, "bill", "--month", MARCH, code=3)
    settle = ("settle", "--month", MARCH, "--user", TWO, "--as", "billed-by-hand", "--reason", "by transfer")
    done(shop, *settle)
    put_back(shop.url, before)
    shop.accounts(TWO)

    held = done(shop, "bill", "--month", MARCH, "--verify", code=3)

    assert invoices(shop) == 1
    assert "as after a backup was restored: enter again who got a grant, was settled" in held
    done(shop, "bill", "--month", MARCH, code=3)
    done(shop, *settle)
    done(shop, "release", "--month", MARCH, "--all", "--reason", "all entered")
    done(shop, "bill", "--month", MARCH)
    assert invoices(shop) == 1
    done(shop, "reconcile", "--month", MARCH)


def test_after_a_restored_ledger_adopted_invoices_the_next_month_is_in_review_once(shop: Any) -> None:
    done(shop, "bill", "--month", MARCH)
    before = image_of(shop.url)
    done(shop, "bill", "--month", APRIL)
    amount = ("--cents", "300", "--expires", "2099-01-01")
    grant = ("grant", "--user", ONE, "--id", "outage", *amount, "--reason", "outage")
    done(shop, *grant)
    put_back(shop.url, before)

    done(shop, "bill", "--month", APRIL, "--verify")
    said = done(shop, "bill", "--month", MAY, code=3)

    assert invoices(shop) == 2
    assert "Stripe had invoices of 2025-04 that this ledger lacked" in said
    assert "see who got a grant" in said
    done(shop, *grant)
    done(shop, "bill", "--month", MAY, code=3)
    done(shop, "approve", "--month", MAY, "--reason", "all entered")
    done(shop, "bill", "--month", MAY)
    assert shop.double.invoices()[-1].total_cents == 700
    done(shop, "bill", "--month", JUNE)


def test_of_several_months_that_a_restored_ledger_lacks_each_is_asked_about_once(shop: Any) -> None:
    before = image_of(shop.url)
    for month in (MARCH, APRIL):
        done(shop, "bill", "--month", month)
    put_back(shop.url, before)

    done(shop, "bill", "--month", MARCH, "--verify")
    done(shop, "bill", "--month", APRIL, "--verify", code=3)
    done(shop, "approve", "--month", APRIL, "--reason", "all entered")
    done(shop, "bill", "--month", APRIL, "--verify")
    done(shop, "bill", "--month", MAY)

    assert invoices(shop) == 3


def test_a_month_waits_for_an_earlier_one_that_was_sent_on_after_the_backup(shop: Any) -> None:
    shop.accounts(TWO)
    shop.calls(MARCH, (TWO, 700))
    done(shop, "bill", "--month", MARCH, "--first", "1", code=3)
    before = image_of(shop.url)
    done(shop, "bill", "--month", MARCH)
    put_back(shop.url, before)

    refused = done(shop, "bill", "--month", APRIL, code=1)

    assert "Stripe has invoices of 2025-03, more than this ledger has: the ledger is older." in refused
    assert invoices(shop) == 2
    done(shop, "bill", "--month", MARCH, "--verify")
    done(shop, "bill", "--month", APRIL, code=3)


def test_a_month_of_which_the_rest_waits_keeps_no_later_one_back(shop: Any) -> None:
    shop.accounts(TWO)
    shop.calls(MARCH, (TWO, 700))
    done(shop, "bill", "--month", MARCH, "--first", "1", code=3)

    done(shop, "bill", "--month", APRIL)
    done(shop, "bill", "--month", MARCH)

    assert invoices(shop) == 3


def test_a_month_is_in_review_once_where_late_usage_cannot_be_looked_for(shop: Any) -> None:
    done(shop, "bill", "--month", MARCH)
    (frozen,) = shop.home.rglob("2025-03/v0001")
    lost = frozen.rename(shop.home / "lost")
    shop.calls(MARCH, (ONE, 50))

    said = done(shop, "bill", "--month", APRIL, code=3)

    assert "Late usage of 2025-03 is not looked for: The frozen usage 2025-03/v0001 is not in" in said
    assert invoices(shop) == 1
    done(shop, "approve", "--month", APRIL, "--reason", "nothing was late")
    done(shop, "bill", "--month", APRIL)
    done(shop, "bill", "--month", MAY)
    lost.rename(frozen)
    done(shop, "bill", "--month", JUNE)
    assert [each.total_cents for each in shop.double.invoices()] == [1_000, 1_000, 1_000, 1_050]
