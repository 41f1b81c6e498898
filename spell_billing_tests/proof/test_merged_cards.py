"""Users who became one where rate cards price their calls: priced together from then on, the past too."""

import pytest

from spell_billing.ledger.moves import record_move
from spell_billing_tests.proof.granting import NOW, ONE, SUPPORT, TWO
from spell_billing_tests.proof.priced import BY_ENDPOINT, cards, insert
from spell_billing_tests.proof.small_platform import APRIL, MARCH, SmallPlatform

FREE_TO_THREE = [{"model": "graduated", "up_to": 3, "unit_price_cents": "0"}, {"model": "graduated"}]
PACKAGES = [{"model": "package", "unit_price_cents": "12", "package_size": 3}]


@pytest.mark.parametrize(("rows", "each", "late"), [(FREE_TO_THREE, 1, 3), (PACKAGES, 24, -12)])
def test_what_two_users_cost_less_or_more_as_one_is_late_usage(
    light_platform: SmallPlatform, rows: list[dict[str, object]], each: int, late: int
) -> None:
    platform = light_platform
    platform.rules = BY_ENDPOINT
    platform.accounts(ONE, TWO)
    cards(platform, *rows)
    for user in (ONE, TWO):
        insert(platform, MARCH, *[(user, 0, "/chat")] * 4)
    platform.bill(MARCH)
    assert [platform.bill_of(MARCH, user).total_cents for user in (ONE, TWO)] == [each, each]
    platform.sql(f"UPDATE usage_counters SET user_id = '{ONE}' WHERE user_id = '{TWO}'")
    with platform.ledger() as ledger, ledger.writing() as connection:
        record_move(connection, TWO, ONE, reason="merged", actor=SUPPORT, has_usage=lambda _: True, now=NOW)
    insert(platform, APRIL, *[(ONE, 0, "/chat")] * 40)
    platform.bill(APRIL)
    of_both = [
        line
        for user in (ONE, TWO)
        for bill in platform.generations(APRIL, user)
        for line in bill.parsed_lines
        if line.kind == "late_usage"
    ]
    assert [line.amount_cents for line in of_both] == [late]
    for month in (MARCH, APRIL):
        platform.must_agree(month)
