"""Grants over HTTP, on the overview and at a user's endpoint, and what users read of small amounts."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from spell_billing.core.terms import CARRY, FORGIVE, Policy
from spell_billing.ledger.grants import add_grant
from spell_billing.ledger.rows import Actor
from spell_billing_tests.proof.small_platform import JUNE, MARCH, SmallPlatform
from spell_billing_tests.web_pages.test_overview import look
from spell_billing_tests.web_pages.world import OpenDoors, api, token_of

ONE, TWO = "user-0001", "user-0002"


def test_grants_stand_on_the_overview_and_at_the_user_s_endpoint(
    light_platform: SmallPlatform, open_doors: OpenDoors
) -> None:
    light_platform.accounts(ONE, TWO)
    for grant_id, cents, is_paid in (("welcome", 500, False), ("bought", 1000, True)):
        with light_platform.ledger() as ledger, ledger.writing() as connection:
            add_grant(
                connection,
                grant_id,
                ONE,
                cents,
                "usd",
                expires_on=JUNE.start.date(),
                is_paid=is_paid,
                reason="agreed",
                actor=Actor("support"),
                now=datetime(2025, 3, 1, tzinfo=UTC),
            )
    light_platform.calls(MARCH, (ONE, 300), (TWO, 100))
    light_platform.bill(MARCH)
    with open_doors(light_platform) as house:
        overview = look(house, "/billing")
        mine = house.admit("GET", api(ONE, "grants")).json
        nobodys = house.admit("GET", api(TWO, "grants")).json
        token = token_of(house, ONE)
        own = house.ask("GET", api(ONE, "grants"), authorization=f"Bearer {token}")
        anothers = house.ask("GET", api(TWO, "grants"), authorization=f"Bearer {token}")
        unknown = house.admit("GET", api("ghost", "grants"))

    assert overview.row("USD") == ["USD", "$2.00", "$10.00"]
    assert [
        (each["grant_id"], each["kind"], each["used_cents"], each["left"]) for each in mine["grants"]
    ] == [
        ("bought", "paid", 0, "$10.00"),
        ("welcome", "granted", 300, "$2.00"),
    ]
    assert nobodys == {"user_id": TWO, "grants": []}
    assert (own.status, own.json, anothers.status, unknown.status) == (200, mine, 403, 404)


@pytest.mark.parametrize(
    ("small_amounts", "said"),
    [
        (CARRY, "Nothing to pay now: the small amount goes to the next invoice"),
        (FORGIVE, "Nothing to pay: the amount is too small to be charged"),
    ],
)
def test_a_user_reads_what_became_of_a_small_amount(
    light_platform: SmallPlatform, open_doors: OpenDoors, small_amounts: str, said: str
) -> None:
    platform = replace(light_platform, policy=Policy(small_amounts=small_amounts))
    platform.accounts(ONE)
    platform.calls(MARCH, (ONE, 30))
    platform.bill(MARCH)
    with open_doors(platform) as house:
        (bill,) = house.admit("GET", api(ONE, "invoices")).json["invoices"]

    assert (bill["state_in_words"], bill["total_cents"]) == (said, 0)
