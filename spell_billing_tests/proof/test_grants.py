"""Grants pay for bills once: earliest expiry first, freed by a void, and proven to the cent."""

import pytest

from spell_billing.core.errors import LedgerError
from spell_billing.ledger.grants import Liability, read_ledger_grants, read_liability, revoke_grant
from spell_billing.ledger.moves import record_move
from spell_billing_tests.proof.granting import NOW, ONE, SUPPORT, TWO, grant
from spell_billing_tests.proof.small_platform import APRIL, MARCH, MAY, SmallPlatform


def left(platform: SmallPlatform) -> dict[str, int]:
    with platform.ledger() as ledger, ledger.reading() as connection:
        found = read_ledger_grants(connection)
    assert all(each.left_cents >= 0 for each in found)
    return {each.grant_id: each.left_cents for each in found}


def liability(platform: SmallPlatform) -> list[Liability]:
    with platform.ledger() as ledger, ledger.reading() as connection:
        return read_liability(connection)


@pytest.mark.both_databases
def test_grants_pay_before_credits_and_what_would_be_lost_first_is_used_first(
    platform: SmallPlatform,
) -> None:
    platform.accounts(ONE)
    grant(platform, "bought", 300, expires=MAY, paid=True)
    grant(platform, "late", 1000)
    grant(platform, "euros", 1000, currency="eur")
    grant(platform, "welcome", 200, expires=MAY)
    assert liability(platform) == [Liability("eur", 1000, 0), Liability("usd", 1200, 300)]
    platform.calls(MARCH, (ONE, -50))
    platform.calls(APRIL, (ONE, 600))
    platform.calls(MAY, (ONE, 1000))
    for month in (MARCH, APRIL, MAY):
        platform.bill(month)

    lines = platform.bill_of(APRIL, ONE).parsed_lines
    assert [(line.description, line.amount_cents) for line in lines[1:]] == [
        ("Prepaid credit welcome (-$2.00)", -200),
        ("Prepaid credit bought (-$3.00)", -300),
        ("Prepaid credit late (-$1.00)", -100),
    ]
    assert platform.lines(MARCH, ONE) == [("usage", -50)]
    assert platform.lines(MAY, ONE) == [("usage", 1000), ("grant", -900), ("credit", -50)]
    assert [each.total_cents for each in platform.standing()] == [50]
    assert left(platform) == {"bought": 0, "late": 0, "euros": 1000, "welcome": 0}
    assert liability(platform) == []
    for month in (MARCH, APRIL, MAY):
        platform.must_agree(month)


@pytest.mark.both_databases
def test_a_void_frees_a_grant_and_no_two_bills_use_the_same_cents(platform: SmallPlatform) -> None:
    platform.accounts(ONE)
    grant(platform, "welcome", 500)
    for month in (MARCH, APRIL):
        platform.calls(month, (ONE, 800))
    platform.bill(MARCH)
    platform.draft(APRIL)
    assert platform.lines(APRIL, ONE) == [("usage", 800)]
    platform.void(MARCH, ONE)
    platform.draft(APRIL)
    assert platform.lines(APRIL, ONE) == [("usage", 800), ("grant", -500)]

    platform.draft(MARCH)

    assert platform.lines(MARCH, ONE) == [("usage", 800)]
    platform.bill(MARCH)
    platform.bill(APRIL)
    assert sum(each.total_cents for each in platform.standing()) == 1100
    platform.void(APRIL, ONE)
    platform.void(MARCH, ONE)
    platform.bill(MARCH)
    assert platform.lines(MARCH, ONE)[1:] == [("grant", -500)]
    with pytest.raises(LedgerError, match="Grant welcome paid for some of user user-0001's void bill"):
        platform.settle(APRIL, ONE)
    platform.bill(APRIL)
    for month in (MARCH, APRIL):
        platform.must_agree(month)


def test_a_failed_bill_keeps_its_grant_from_later_months_and_frees_it_when_it_is_drafted_again(
    light_platform: SmallPlatform,
) -> None:
    light_platform.accounts(ONE)
    grant(light_platform, "welcome", 500)
    for month in (MARCH, APRIL):
        light_platform.calls(month, (ONE, 800))
    light_platform.sql("UPDATE billing_accounts SET stripe_customer_id = NULL")
    light_platform.bill(MARCH)
    light_platform.sql("UPDATE billing_accounts SET stripe_customer_id = 'cus_user-0001'")
    light_platform.bill(APRIL)
    light_platform.bill(MARCH)
    assert light_platform.lines(MARCH, ONE) == [("usage", 800), ("grant", -500)]
    assert light_platform.lines(APRIL, ONE) == [("usage", 800)]
    for month in (MARCH, APRIL):
        light_platform.must_agree(month)


def test_a_grant_that_expired_pays_nothing_and_is_owed_until_its_last_month_is_billed(
    light_platform: SmallPlatform,
) -> None:
    light_platform.accounts(ONE)
    grant(light_platform, "welcome", 500, expires=APRIL)
    light_platform.calls(MARCH, (ONE, 300))
    light_platform.calls(APRIL, (ONE, 300))
    assert liability(light_platform) == [Liability("usd", 500, 0)]
    light_platform.bill(MARCH)
    light_platform.bill(APRIL)
    assert light_platform.lines(APRIL, ONE) == [("usage", 300)]
    assert (left(light_platform), liability(light_platform)) == ({"welcome": 200}, [])
    light_platform.must_agree(MARCH)


def test_usage_that_a_grant_paid_for_and_that_vanished_comes_back_as_a_credit(
    light_platform: SmallPlatform,
) -> None:
    light_platform.accounts(ONE)
    grant(light_platform, "welcome", 300)
    light_platform.calls(MARCH, (ONE, 300))
    light_platform.bill(MARCH)
    light_platform.calls(MARCH, (ONE, -100))
    light_platform.calls(APRIL, (ONE, 500))
    light_platform.bill(APRIL)
    assert light_platform.lines(APRIL, ONE) == [("usage", 500), ("late_usage", -100)]
    for month in (MARCH, APRIL):
        light_platform.must_agree(month)


def test_grants_of_a_user_who_moved_pay_for_the_heir(light_platform: SmallPlatform) -> None:
    light_platform.accounts(ONE, TWO)
    grant(light_platform, "welcome", 300)
    light_platform.calls(MARCH, (ONE, 100), (TWO, 100))
    light_platform.bill(MARCH)
    with light_platform.ledger() as ledger, ledger.writing() as connection:
        record_move(connection, ONE, TWO, reason="merged", actor=SUPPORT, has_usage=lambda _: True, now=NOW)
    light_platform.calls(APRIL, (ONE, 100), (TWO, 500))
    light_platform.bill(APRIL)
    assert light_platform.lines(APRIL, ONE) == [("usage", 100)]
    assert light_platform.lines(APRIL, TWO) == [("usage", 500), ("grant", -200)]
    for month in (MARCH, APRIL):
        light_platform.must_agree(month)


def test_a_grant_is_made_once_and_taken_back_once(light_platform: SmallPlatform) -> None:
    light_platform.accounts(ONE)
    assert grant(light_platform, "welcome", 300) is True
    assert grant(light_platform, "welcome", 300) is False
    for more in ({"cents": 301}, {"paid": True}, {"user": TWO}, {"expires": MAY}, {"currency": "eur"}):
        with pytest.raises(LedgerError, match="Grant welcome already exists with another"):
            grant(light_platform, "welcome", **{"cents": 300, **more})  # type: ignore[arg-type]
    for bad in ("for user", "user-0001.welcome", "", "x" * 65):
        with pytest.raises(LedgerError):
            grant(light_platform, bad, 300)
    with pytest.raises(LedgerError, match="would have expired on 2025-03-01"):
        grant(light_platform, "old", 300, expires=MARCH)

    light_platform.calls(MARCH, (ONE, 100))
    light_platform.bill(MARCH)
    with light_platform.ledger() as ledger, ledger.writing() as connection:
        assert revoke_grant(connection, "welcome", reason="fraud", actor=SUPPORT, now=NOW).left_cents == 200
        assert revoke_grant(connection, "welcome", reason="fraud", actor=SUPPORT, now=NOW).left_cents == 0
    assert left(light_platform) == {"welcome": 0}
    march = [each for each in light_platform.trail(MARCH, ONE) if "grant" in each["action"]]
    assert [each["detail"] for each in march] == [
        "welcome: $3.00, granted, expires 2025-06-01: agreed",
        "welcome: $2.00, revoked, expires 2025-06-01: fraud",
    ]
    with pytest.raises(Exception, match="append-only"):
        light_platform.sql("UPDATE ledger_credits SET amount_cents = 1")
    light_platform.must_agree(MARCH)


def test_a_ledger_that_was_lost_takes_up_what_its_invoices_used(light_platform: SmallPlatform) -> None:
    light_platform.accounts(ONE)
    grant(light_platform, "welcome", 500)
    light_platform.calls(MARCH, (ONE, 800))
    light_platform.bill(MARCH)
    light_platform.lose_the_ledger()
    light_platform.bill(MARCH)
    light_platform.calls(APRIL, (ONE, 800))
    light_platform.bill(APRIL)
    assert light_platform.lines(MARCH, ONE) == [("usage", 800), ("grant", -500)]
    assert light_platform.lines(APRIL, ONE) == [("usage", 800)]
    for month in (MARCH, APRIL):
        light_platform.must_agree(month)
