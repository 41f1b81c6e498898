"""What finance does on a month's pages: compare it, bill it again, give money back."""

from pathlib import Path
from urllib.parse import urlencode

import pytest

from spell_billing.core.money import cents_of
from spell_billing.ledger.browsing import read_changes
from spell_billing_tests.proof.small_platform import APRIL, MARCH, SmallPlatform
from spell_billing_tests.web.house import Answer, House, house
from spell_billing_tests.web_pages.world import OpenDoors

ONE, TWO, NEW, GONE = "user-0001", "user-0002", "user-0003", "user-0004"


def form(at: House, cookie: str, **fields: str) -> Answer:
    path = "/billing/2025-03/decide"
    return at.ask(
        "POST", path, urlencode(fields), cookie=cookie, sec_fetch_site="same-origin", accept="text/html"
    )


@pytest.mark.both_databases
def test_a_month_is_compared_with_the_one_before_by_its_users_totals(
    platform: SmallPlatform, open_doors: OpenDoors
) -> None:
    platform.accounts(ONE, TWO, NEW, GONE)
    platform.calls(MARCH, (ONE, 1000), (TWO, 500), (GONE, 300))
    platform.bill(MARCH)
    platform.calls(APRIL, (ONE, 1500), (TWO, 500), (NEW, 70))
    platform.draft(APRIL)

    with platform.ledger() as ledger, ledger.reading() as connection:
        changes = read_changes(connection, APRIL)

    assert changes.counts == {"new": 1, "gone": 1, "pay more": 1, "pay the same": 1}
    assert [(each.user_id, each.before_cents, each.after_cents) for each in changes.largest] == [
        (ONE, 1000, 1500),
        (GONE, 300, 0),
        (NEW, 0, 70),
    ]
    with open_doors(platform) as at:
        page = at.admit("GET", "/billing/2025-04?compare=yes", accept="text/html").text
    assert "Compared with March 2025" in page
    assert "1 new, 1 gone, 1 pay more, 1 pay the same" in page
    assert "-$3.00" in page


def test_money_is_given_back_from_a_users_page_once(platform: SmallPlatform, open_doors: OpenDoors) -> None:
    platform.accounts(ONE)
    platform.calls(MARCH, (ONE, 1000))
    platform.bill(MARCH)
    with open_doors(platform, STRIPE_API_KEY="sk_test_pages", STRIPE_API_BASE=platform.double.base_url) as at:
        cookie = at.sign_in()
        path = f"/billing/2025-03/users/{ONE}"
        assert "Give money back" in at.ask("GET", path, cookie=cookie).text
        fields = {"decision": "credit", "user_id": ONE, "to": "card", "reason": "outage"}

        refused = [
            form(at, cookie, **fields, amount=amount).status for amount in ("0.00", "2.505", "-1", "x")
        ]
        done, again = (form(at, cookie, **fields, amount="2.50") for _ in range(2))
        too_much = form(at, cookie, **fields, amount="1000")

        assert refused == [422] * 4
        assert done.headers["location"] == f"{path}?done=credit"
        assert "Given back with a credit note." in at.ask("GET", f"{path}?done=credit", cookie=cookie).text
        assert again.status == 200
        assert "Nothing was done: a credit note of $2.50 for this reason was made on " in again.text
        assert "For another one give another reason." in again.text
        assert too_much.status == 409
        assert "$7.50 of invoice " in too_much.text
        for kept in ('value="outage"', 'value="1000"', 'href="/billing"', "Give it back"):
            assert kept in too_much.text
    assert [each.amount_cents for each in platform.double.state.credit_notes] == [250]


def test_all_that_is_left_of_an_invoice_is_given_back_and_the_page_says_how_much_that_is(
    platform: SmallPlatform, open_doors: OpenDoors
) -> None:
    platform.accounts(ONE)
    platform.calls(MARCH, (ONE, 1000))
    platform.bill(MARCH)
    with open_doors(platform, STRIPE_API_KEY="sk_test_pages", STRIPE_API_BASE=platform.double.base_url) as at:
        cookie = at.sign_in()
        path = f"/billing/2025-03/users/{ONE}"
        fields = {"decision": "credit", "user_id": ONE, "to": "card"}
        assert "Up to $10.00" in at.ask("GET", path, cookie=cookie).text
        form(at, cookie, **fields, amount="2.50", reason="outage")
        assert "Up to $7.50" in at.ask("GET", path, cookie=cookie).text

        neither = form(at, cookie, **fields, amount="", reason="goodwill")
        both = form(at, cookie, **fields, amount="1.00", all="true", reason="goodwill")
        done = form(at, cookie, **fields, amount="", all="true", reason="goodwill")

        assert [neither.status, both.status, done.status] == [422, 422, 303]
        assert "Write an amount, or choose all of it; not both." in both.text
        assert "Leave the rows as they are afterwards" in both.text
    assert [each.amount_cents for each in platform.double.state.credit_notes] == [250, 750]


def test_the_button_of_a_month_starts_a_run_and_a_month_that_is_not_over_has_none(
    light_platform: SmallPlatform, tmp_path: Path
) -> None:
    with house(light_platform.url, tmp_path / "house") as at:
        cookie = at.sign_in()
        page = at.ask("GET", "/billing/2025-03", cookie=cookie).text
        open_month = at.ask("GET", "/billing/2025-04", cookie=cookie).text
        started = form(at, cookie, decision="bill")
        again = form(at, cookie, decision="bill")

        assert "Bill March 2025" in page
        assert 'value="bill"' not in open_month
        ((launched, run_id),) = [
            (each["actor"], each["run_id"])
            for each in at.ledger.audit_trail(MARCH)
            if each["action"] == "run_launched"
        ]
        assert launched.startswith("session ")
        assert started.headers["location"] == f"/billing/2025-03?run={run_id}"
        assert again.status == 409
        assert "has a run under way" in again.text
        assert "March 2025 is being billed." in again.text
        assert 'href="/billing"' in again.text


def test_an_amount_is_read_in_the_minor_units_of_its_currency() -> None:
    assert [cents_of(*each) for each in (("2.50", "usd"), ("700", "jpy"), ("1.234", "kwd"))] == [
        250,
        700,
        1234,
    ]
    with pytest.raises(ValueError, match="fractions of a minor unit of JPY"):
        cents_of("0.5", "jpy")
