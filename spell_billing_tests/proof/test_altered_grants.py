"""Grants that somebody altered by hand: reconciliation names the user, and nothing is sent on them."""

import re
from datetime import UTC, datetime

import pytest

from spell_billing.core.errors import IntegrityError
from spell_billing.core.month import Month
from spell_billing.ledger.moves import record_move
from spell_billing_tests.proof.granting import NOW, ONE, SUPPORT, TWO, grant, unguarded
from spell_billing_tests.proof.leavers import erase
from spell_billing_tests.proof.small_platform import MARCH, SmallPlatform


@pytest.mark.parametrize(
    ("altered", "expected", "found"),
    [
        ("UPDATE ledger_credits SET amount_cents = 499", "$4.99 of grant welcome", "$5.00 used"),
        ("DELETE FROM ledger_credits", "a grant welcome in the ledger", "none, and $5.00 used of it"),
        (
            "UPDATE ledger_credits SET expires_on = '2025-03-01'",
            "grant welcome used for months before 2025-03-01",
            "2025-03",
        ),
        ("UPDATE ledger_credits SET user_id = 'user-0002'", "grant welcome used by user user-0002", ONE),
        ("UPDATE ledger_credits SET currency = 'eur'", "grant welcome used in eur", "usd"),
    ],
)
def test_an_altered_grant_is_found_to_the_cent_and_nothing_is_sent_on_it(
    light_platform: SmallPlatform, altered: str, expected: str, found: str
) -> None:
    light_platform.accounts(ONE)
    grant(light_platform, "welcome", 500)
    light_platform.calls(MARCH, (ONE, 800))
    light_platform.draft(MARCH)
    unguarded(light_platform, altered)
    with pytest.raises(IntegrityError, match="User user-0001 in 2025-03"):
        light_platform.send(MARCH)
    assert light_platform.standing() == []
    findings = [each for each in light_platform.reconcile(MARCH).findings if each.kind == "grant_differs"]
    assert [(each.user_id, each.expected, each.found) for each in findings] == [(ONE, expected, found)]


_BY_HAND = (
    "INSERT INTO ledger_credits "
    "(grant_id, number, at, actor, user_id, kind, currency, amount_cents, expires_on, reason) "
    "SELECT {}, at, actor, user_id, {}, currency, {}, expires_on, reason FROM ledger_credits "
    "WHERE grant_id = 'welcome'"
)
_MADE = "welcome: $9.00, granted, expires 2025-06-01, user user-0001"


@pytest.mark.parametrize(
    ("altered", "expected", "found"),
    [
        ("UPDATE ledger_credits SET amount_cents = 901", _MADE, _MADE.replace("9.00", "9.01")),
        ("UPDATE ledger_credits SET amount_cents = 899", _MADE, _MADE.replace("9.00", "8.99")),
        ("UPDATE ledger_credits SET expires_on = '2026-06-01'", _MADE, _MADE.replace("2025", "2026")),
        ("UPDATE ledger_credits SET kind = 'paid'", _MADE, _MADE.replace("granted", "paid")),
        (
            _BY_HAND.format("'more', 1", "kind", "amount_cents"),
            "no such grant",
            _MADE.replace("welcome", "more"),
        ),
        (
            _BY_HAND.format("grant_id, 2", "'revoked'", "100"),
            "no such grant",
            _MADE.replace("9.00, granted", "1.00, revoked"),
        ),
    ],
)
def test_a_grant_that_nobody_made_is_found_although_no_bill_used_too_much_of_it(
    light_platform: SmallPlatform, altered: str, expected: str, found: str
) -> None:
    light_platform.accounts(ONE)
    grant(light_platform, "welcome", 900)
    light_platform.calls(MARCH, (ONE, 300))
    light_platform.bill(MARCH)
    light_platform.must_agree(MARCH)
    unguarded(light_platform, altered)
    findings = [(each.kind, each.expected, each.found) for each in light_platform.reconcile(MARCH).findings]
    assert findings == [("content_altered", f"{expected}, by the audit trail", found)]


def test_nothing_is_sent_on_a_grant_that_nobody_made(light_platform: SmallPlatform) -> None:
    light_platform.accounts(ONE)
    grant(light_platform, "welcome", 900)
    unguarded(light_platform, "UPDATE ledger_credits SET amount_cents = 901")
    light_platform.calls(MARCH, (ONE, 1_000))
    light_platform.draft(MARCH)
    with pytest.raises(IntegrityError, match=re.escape(f"{_MADE}, by the audit trail")):
        light_platform.send(MARCH)
    assert light_platform.standing() == []


def test_a_grant_that_was_removed_is_found_before_any_bill_used_it(light_platform: SmallPlatform) -> None:
    light_platform.accounts(ONE)
    light_platform.calls(MARCH, (ONE, 500))
    light_platform.bill(MARCH)
    grant(light_platform, "welcome", 900, expires=Month(2999, 1), now=datetime.now(UTC))
    light_platform.must_agree(MARCH)
    unguarded(light_platform, "DELETE FROM ledger_credits")
    made = _MADE.replace("2025-06", "2999-01")
    findings = [(each.kind, each.expected, each.found) for each in light_platform.reconcile(MARCH).findings]
    assert findings == [("content_altered", f"{made}, by the audit trail", "no such grant")]


def test_what_an_erasure_made_of_a_grant_s_entries_is_no_finding(light_platform: SmallPlatform) -> None:
    light_platform.accounts(ONE, "abc")
    # The id of a short user is a word of both grants' entries.
    grant(light_platform, "abc", 100)
    grant(light_platform, "gift", 100, user="abc")
    light_platform.calls(MARCH, (ONE, 500), ("abc", 100))
    light_platform.bill(MARCH)
    erase(light_platform, "abc")
    assert "abc:" not in str(light_platform.trail(MARCH, ONE))
    light_platform.must_agree(MARCH)


def test_a_grant_of_one_who_moved_elsewhere_is_not_for_anybody_who_moved(
    light_platform: SmallPlatform,
) -> None:
    three, four = "user-0003", "user-0004"
    light_platform.accounts(ONE, TWO, three, four)
    grant(light_platform, "welcome", 300)
    light_platform.calls(MARCH, (ONE, 100), (TWO, 100), (three, 100), (four, 100))
    light_platform.bill(MARCH)
    with light_platform.ledger() as ledger, ledger.writing() as connection:
        for pair in ((ONE, TWO), (three, four)):
            record_move(connection, *pair, reason="merged", actor=SUPPORT, has_usage=lambda _: True, now=NOW)
    light_platform.must_agree(MARCH)
    unguarded(light_platform, "UPDATE ledger_credits SET user_id = 'user-0003'")
    findings = light_platform.reconcile(MARCH).findings
    assert ("grant welcome used by user user-0003", ONE) in [(each.expected, each.found) for each in findings]
