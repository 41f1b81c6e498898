"""What a month would change: who is new, gone, charged more or less, and by which kind of line."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spell_billing.core.comparison import Change, Charge, compare_charges, kinds_of
from spell_billing.core.errors import LedgerError
from spell_billing.core.lines import Line
from spell_billing.core.month import Month
from spell_billing.reporting.preview import Against, compare_drafts, differences_frame, preview_drafts
from spell_billing.usage.source import open_usage_source
from spell_billing_tests.proof.small_platform import APRIL, MARCH, MAY, SmallPlatform

STAYS, GOES, COMES, GROWS = "user-0001", "user-0002", "user-0003", "user-0004"


def rows(platform: SmallPlatform, month: Month, against: Against) -> dict[str, dict[str, Any]]:
    with platform.ledger() as ledger:
        source = open_usage_source(platform._url)
        drafts = preview_drafts(month, ledger, source, platform.store)
        frame = differences_frame(compare_drafts(month, drafts, ledger, against))
    return {
        str(row["user"]): {str(name): cell for name, cell in row.items()} for row in frame.to_dict("records")
    }


def test_new_gone_up_and_down_are_told_with_the_lines_that_did_it(light_platform: SmallPlatform) -> None:
    light_platform.source.plans([{"plan_id": "pro", "name": "Pro", "included_cents": 100}])
    light_platform.accounts(GROWS, plan_id="pro")
    light_platform.accounts(STAYS, GOES, COMES)
    light_platform.calls(MARCH, (STAYS, 500), (GOES, 300), (GROWS, 400))
    light_platform.bill(MARCH)
    light_platform.calls(MARCH, (STAYS, -50))
    light_platform.calls(APRIL, (STAYS, 500), (COMES, 70), (GROWS, 90), (GROWS, 900))

    found = rows(light_platform, APRIL, MARCH)

    assert {user: (row["change"], row["by_cents"]) for user, row in found.items()} == {
        GROWS: ("up", 590),
        GOES: ("gone", -300),
        COMES: ("new", 70),
        STAYS: ("down", -50),
    }
    assert (found[STAYS]["usage_line_cents"], found[STAYS]["late_usage_line_cents"]) == (0, -50)
    assert (found[GROWS]["before_calls"], found[GROWS]["now_calls"]) == (1, 2)


def test_of_a_month_that_is_billed_a_preview_shows_what_the_next_run_does_with_who_waits(
    light_platform: SmallPlatform,
) -> None:
    light_platform.accounts(STAYS)
    light_platform.calls(MARCH, (STAYS, 500), (GOES, 300))
    light_platform.bill(MARCH)
    light_platform.calls(MARCH, (STAYS, 11), (GOES, 40))
    light_platform.accounts(GOES)
    versions = sorted(light_platform.store_path.rglob("*"))

    found = rows(light_platform, MARCH, "billed")

    assert (found[STAYS]["change"], found[GOES]["now_cents"]) == ("same", 340)
    assert sorted(light_platform.store_path.rglob("*")) == versions, "a preview stores nothing"
    light_platform.bill(MARCH)
    assert light_platform.bill_of(MARCH, GOES).total_cents == 340
    assert light_platform.bill_of(MARCH, STAYS).total_cents == 500


def test_what_was_sent_or_closed_is_shown_as_it_is_whatever_plans_and_accounts_say_now(
    light_platform: SmallPlatform,
) -> None:
    light_platform.source.plans([{"plan_id": "pro", "name": "Pro", "included_cents": 100}])
    light_platform.accounts(STAYS, GROWS, plan_id="pro")
    light_platform.calls(MARCH, (STAYS, 500), (GROWS, 90), (GOES, 300), (COMES, 40))
    light_platform.bill(MARCH)
    light_platform.settle(MARCH, GOES)
    light_platform.sql(
        "UPDATE billing_plans SET included_cents = 0",
        f"UPDATE billing_accounts SET currency = 'eur', plan_id = NULL WHERE user_id = '{STAYS}'",
    )
    light_platform.accounts(GOES, COMES)

    found = rows(light_platform, MARCH, "billed")

    assert {user: (row["change"], row["now_cents"]) for user, row in found.items()} == {
        STAYS: ("same", 400),
        GROWS: ("same", 0),
        COMES: ("new", 40),
    }
    with light_platform.ledger() as ledger:
        source = open_usage_source(light_platform._url)
        states = {
            x.user_id: x.state.value for x in preview_drafts(MARCH, ledger, source, light_platform.store)
        }
    assert states == {STAYS: "finalized", GROWS: "skipped", GOES: "settled", COMES: "planned"}


def test_against_billed_an_unchanged_month_differs_in_nothing(light_platform: SmallPlatform) -> None:
    light_platform.accounts(STAYS)
    light_platform.calls(MARCH, (STAYS, 500), (GOES, 300))
    light_platform.bill(MARCH)
    found = rows(light_platform, MARCH, "billed")
    assert found[STAYS]["change"] == "same"
    assert (found[GOES]["change"], found[GOES]["now_cents"]) == ("new", 300), "it failed: it was not billed"


def test_a_void_bill_is_no_charge_to_compare_with(billed: SmallPlatform) -> None:
    billed.void(MARCH, STAYS, for_good=True)
    assert rows(billed, APRIL, MARCH).keys() == {"user-0002", "user-0003"}


def test_a_month_without_bills_is_refused(light_platform: SmallPlatform) -> None:
    light_platform.accounts(STAYS)
    with pytest.raises(LedgerError, match="2025-05 has no bills to compare with"):
        rows(light_platform, APRIL, MAY)


_LINES = st.lists(
    st.builds(
        Line,
        st.sampled_from(["usage", "included", "late_usage", "credit"]),
        st.just("x"),
        st.integers(-1000, 1000),
        st.just("2025-03"),
    ),
    max_size=4,
)


def _charge(user: str, currency: str, lines: list[Line]) -> Charge:
    return Charge(user, currency, len(lines), sum(line.amount_cents for line in lines), lines)


_RUN = st.dictionaries(
    st.tuples(st.sampled_from("abcd"), st.sampled_from(["usd", "eur"])), _LINES, max_size=6
).map(lambda found: [_charge(user, currency, lines) for (user, currency), lines in found.items()])


@given(_RUN, _RUN)
def test_differences_add_up_to_the_cent_by_user_and_by_kind(before: list[Charge], now: list[Charge]) -> None:
    found = compare_charges(before, now)
    for currency in ("usd", "eur"):
        by = sum(each.total_cents for each in now if each.currency == currency)
        by -= sum(each.total_cents for each in before if each.currency == currency)
        assert sum(each.by_cents for each in found if each.currency == currency) == by
        assert sum(cents for (of, _), cents in kinds_of(found).items() if of == currency) == by
    for each in found:
        assert sum(each.by_kind.values()) == each.by_cents
        assert (each.change is Change.SAME) == (each.by_cents == 0 and each.change not in {"new", "gone"})


def test_a_run_against_itself_is_the_same() -> None:
    run = [_charge("a", "usd", [Line("usage", "x", 5, "2025-03", 1, str(Decimal(5)))])]
    assert [each.change for each in compare_charges(run, run)] == [Change.SAME]
