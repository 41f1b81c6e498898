"""`/billing`: months, a month's users, each user's story; what finance reads is what the ledger says."""

import shutil
from datetime import UTC, datetime
from urllib.parse import quote

import pytest

from spell_billing.core.month import Month
from spell_billing.core.outcomes import INVOICED, State
from spell_billing.ledger.runs import RunRecord, RunResult
from spell_billing.reporting.status import month_status
from spell_billing.web import month_pages
from spell_billing.web.month_figures import figures_of
from spell_billing_tests.proof.small_platform import APRIL, MARCH, SmallPlatform, bill_march
from spell_billing_tests.web.house import NOW, House
from spell_billing_tests.web_pages.reading_pages import Page
from spell_billing_tests.web_pages.world import HOSTILE, OpenDoors, hear

ONE, TWO, FREE = "user-0001", "user-0002", "user-0003"
PATHS = (
    "/billing",
    "/billing.csv",
    "/billing/2025-03",
    "/billing/2025-03.csv",
    f"/billing/2025-03/users/{ONE}",
)


def look(house: House, path: str, status: int = 200) -> Page:
    # A browser keeps the fragment to itself.
    answer = house.admit("GET", path.partition("#")[0], accept="text/html")
    assert answer.status == status, answer.text
    page = Page(answer.text)
    page.must_be_sound()
    return page


def found(page: Page) -> list[str]:
    """Give the users that a month's page lists."""
    start = page.rows.index(["User", "State", "Reason", "Calls", "Total", "Customer", "Invoice"])
    return [cells[0] for cells in page.rows[start + 1 :]]


def months_in(page: Page) -> list[list[str]]:
    """Give the rows of the overview's months."""
    return [cells for cells in page.rows if len(cells) == 10 and cells[0] != "Month"]


def month_row(page: Page, month: Month) -> list[str]:
    """Give a month's row, but for its name."""
    (row,) = (cells[1:] for cells in months_in(page) if cells[0] == month.label)
    return row


def mix(platform: SmallPlatform) -> SmallPlatform:
    """Give a March with two currencies, failures, a user who pays nothing, and a voided bill."""
    platform.accounts(ONE, TWO, FREE)
    platform.accounts("user-0004", currency="jpy")
    platform.accounts("user-0005")
    platform.calls(MARCH, (ONE, 1000), (TWO, 500), (FREE, 0), ("user-0004", 700), ("user-0005", 300))
    platform.calls(MARCH, ("user-0006", 250), ("user-0007", 50))
    platform.bill(MARCH)
    platform.void(MARCH, "user-0005")
    platform.bill(MARCH)
    return platform


@pytest.fixture
def mixed(platform: SmallPlatform) -> SmallPlatform:
    return mix(platform)


@pytest.fixture
def light_mixed(light_platform: SmallPlatform) -> SmallPlatform:
    return mix(light_platform)


def test_a_stranger_sees_nothing(light_doors: House) -> None:
    for path in PATHS:
        for headers in ({}, {"accept": "text/html"}):
            answer = light_doors.ask("GET", path, **headers)
            assert answer.status in {303, 401}
            assert ONE not in answer.text
            assert "12.34" not in answer.text


def test_a_signed_in_browser_walks_from_months_to_a_story(light_doors: House) -> None:
    cookie = light_doors.sign_in()
    path = "/billing"
    for link in ("March 2025", ONE):
        page = Page(light_doors.ask("GET", path, cookie=cookie).text)
        assert page.links["Dagster"] == "/"
        path = page.links[link]
    story = Page(light_doors.ask("GET", path, cookie=cookie).text)

    assert "of $12.34, for 2 calls. Sent, not paid yet." in story.text
    assert ("form", {"method": "post", "action": "/logout"}) in story.tags
    assert light_doors.ask("POST", "/logout", cookie=cookie, sec_fetch_site="same-origin").status == 303


def test_the_overview_has_totals_by_currency_and_never_adds_two(
    mixed: SmallPlatform, open_doors: OpenDoors
) -> None:
    with open_doors(mixed) as house:
        hear(house, ONE, status="paid", attempts=1)
        hear(house, TWO, failed_attempts=1)
        page = look(house, "/billing")

    state, users, invoices, invoiced, paid, share, failed, missing, _ = month_row(page, MARCH)
    assert (state, users, invoices, missing) == ("Billed in part", "7", "4", "2")
    assert invoiced == "¥700 $18.00"
    assert paid == "¥0 $10.00"
    assert share == "0.0 % 55.5 %"
    assert failed == "¥0 $5.00"
    assert month_row(page, APRIL)[0] == "Not over yet"
    captions = {text for text in page.words if text.startswith(("Revenue by month", "Users by month"))}
    assert captions == {"Revenue by month, in JPY", "Revenue by month, in USD", "Users by month"}
    reasons = page.row("no billing account")
    assert reasons[1:4] == ["Failed, no invoice", "2", "$3.00"]
    assert "Add one, then bill the month again." in reasons[4]


def test_the_figures_are_those_of_status(mixed: SmallPlatform) -> None:
    with mixed.ledger() as ledger:
        (figures,) = figures_of(ledger, [MARCH], NOW)
        status = month_status(ledger, MARCH, NOW)

    assert figures.state == status.state
    assert (figures.count(), figures.invoices) == (status.users, status.count(INVOICED))
    assert sum(each.invoiced_cents for each in figures.money) == status.cents(INVOICED)
    for state in State:
        assert figures.count({state}) == status.count(frozenset({state})), state
    told = {(each.state, each.reason, each.currency): each.bills for each in figures.problems}
    expected = {
        (each.state, each.reason, each.currency): each.users
        for each in status.groups
        if each.reason and each.state is not State.SKIPPED
    }
    assert told == expected


def test_a_month_waits_while_a_voided_bill_is_to_be_billed_again(
    light_platform: SmallPlatform, open_doors: OpenDoors
) -> None:
    bill_march(light_platform)
    light_platform.void(MARCH, ONE)

    with open_doors(light_platform) as house:
        page = look(house, "/billing/2025-03")

    assert "Billed in part" in page.text
    assert page.row("voided")[2] == "1"


def test_a_reason_leads_to_exactly_its_users(light_mixed: SmallPlatform, open_doors: OpenDoors) -> None:
    with open_doors(light_mixed) as house:
        path = look(house, "/billing").links["no billing account"]
        page = look(house, path)

    assert found(page) == ["user-0006", "user-0007"]


@pytest.mark.both_databases
def test_a_month_s_users_are_searched(mixed: SmallPlatform, open_doors: OpenDoors) -> None:
    with open_doors(mixed) as house:
        invoice_id = house.ledger.bills_of_user(MARCH, TWO)[0].stripe_invoice_id

        def search(query: str) -> list[str]:
            page = look(house, f"/billing/2025-03?{query}")
            return [] if "No users found." in page.text else found(page)

        everyone = [
            ONE,
            TWO,
            FREE,
            "user-0004",
            "user-0005",
            "user-0005 (generation 2)",
            "user-0006",
            "user-0007",
        ]
        assert search("") == everyone
        assert search("q=user-000") == everyone
        assert search("q=user-0005") == ["user-0005", "user-0005 (generation 2)"]
        assert search("q=USER") == search("q=ser-0001") == search("q=%25") == search("q=user_0001") == []
        assert search(f"in=customer&q=cus_{TWO}") == [TWO]
        assert search("in=customer&q=cus_") == []
        assert search(f"in=invoice&q={invoice_id}") == [TWO]
        assert search("state=skipped") == [FREE]
        assert search("state=void") == ["user-0005"]
        assert search("reason=no_charge") == [FREE]
        assert search("state=paid&reason=no_charge") == []
        assert search("q=user-0007&state=failed&reason=no_billing_account&in=user") == ["user-0007"]
        for query in ("state=x", "reason=x", "in=x", "after=x", "after="):
            look(house, f"/billing/2025-03?{query}", 422)


def test_pages_show_each_user_once(
    light_mixed: SmallPlatform, open_doors: OpenDoors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(month_pages, "USERS_A_PAGE", 3)
    seen: list[str] = []
    with open_doors(light_mixed) as house:
        path = "/billing/2025-03?q=user"
        while True:
            page = look(house, path)
            seen += found(page)
            if "Next page" not in page.links:
                break
            path = f"/billing/2025-03{page.links['Next page'].removesuffix('#users')}"
        assert page.links["First page"] == "?q=user#users"

    assert seen == sorted(seen)
    assert len(seen) == len(set(seen)) == 8


def test_hostile_words_are_only_words(platform: SmallPlatform, open_doors: OpenDoors) -> None:
    platform.source.accounts([{"user_id": user, "stripe_customer_id": "cus_1"} for user in HOSTILE])
    platform.double.add_customer("cus_1")
    platform.calls(MARCH, *((user, 100) for user in HOSTILE))
    platform.bill(MARCH)

    with open_doors(platform) as house:
        page = look(house, "/billing/2025-03")
        assert set(found(page)) == {" ".join(user.split()) for user in HOSTILE}
        for user in HOSTILE:
            story = look(house, page.links[user])
            assert story.headings[0] == (1, f"User {user} , March 2025")
            searched = look(house, f"/billing/2025-03?q={quote(user)}")
            assert found(searched) == [user]
            assert [values["value"] for _, values in searched.tags if values.get("id") == "q"] == [user]


def test_an_id_that_no_address_can_hold_is_spelled_out_without_a_link(
    platform: SmallPlatform, open_doors: OpenDoors
) -> None:
    platform.calls(MARCH, ("line\nbreak", 100))
    platform.bill(MARCH)

    with open_doors(platform) as house:
        page = look(house, "/billing/2025-03")

    assert r"line\nbreak" in page.text
    assert not [link for link in page.links.values() if "/users/" in link]


def test_runs_are_linked_with_dagster(light_doors: House) -> None:
    at = datetime(2025, 4, 1, 0, 5, tzinfo=UTC)
    for run_id in ("0b8e1f5c-3c9b-4f7e-9d7c-1c2b3a4d5e6f", ""):
        light_doors.ledger.record_run(
            RunRecord(run_id, "2025-03", at, at, RunResult.USERS_LEFT, invoiced=2, unfinished=0)
        )

    page = look(light_doors, "/billing/2025-03")
    overview_page = look(light_doors, "/billing")

    assert page.links["0b8e1f5c-3c9b-4f7e-9d7c-1c2b3a4d5e6f"] == "/runs/0b8e1f5c-3c9b-4f7e-9d7c-1c2b3a4d5e6f"
    assert page.row("1 April 2025, 00:05 UTC")[1:4] == ["users left", "2", "0"]
    assert "users left" in overview_page.text


def test_a_story_tells_everything(light_mixed: SmallPlatform, open_doors: OpenDoors) -> None:
    with open_doors(light_mixed) as house:
        hear(house, "user-0005", failed_attempts=1, decline_code="expired_card")
        page = look(house, "/billing/2025-03/users/user-0005")
        failed = look(house, "/billing/2025-03/users/user-0006")

    assert "Bill, generation 1" in page.text
    assert "Bill, generation 2" in page.text
    assert "The card has expired. (expired_card)" in page.text
    assert page.row("2025-03-15")[1:] == ["1", "300"]
    assert "/runs/run-1" in page.links.values()
    assert "Add one, then bill the month again." in failed.text


def test_a_user_without_a_bill_is_not_found(light_doors: House) -> None:
    page = look(light_doors, "/billing/2025-03/users/nobody", 404)

    assert "Nothing is known of user nobody: no bill of any month, no usage in March 2025." in page.text
    look(light_doors, "/billing/2024-01/users/nobody", 404)


def test_a_story_without_its_frozen_rows_says_so_and_names_no_path(
    light_doors: House, light_platform: SmallPlatform
) -> None:
    shutil.rmtree(light_platform.store_path)

    page = look(light_doors, f"/billing/2025-03/users/{ONE}", 503)

    assert "The frozen usage of March 2025 is not at hand" in page.text
    assert str(light_platform.store_path) not in page.source


def test_a_month_that_was_never_drafted_has_a_page(light_doors: House) -> None:
    assert "There are no bills" not in look(light_doors, "/billing/2025-03").text
    for month in ("2025-04", "2030-01", "2024-01"):
        assert "The month is not drafted yet" in look(light_doors, f"/billing/{month}").text


def test_what_is_no_month_is_refused(light_doors: House) -> None:
    for path in (
        "/billing/x",
        "/billing/2025-13",
        "/billing/x.csv",
        f"/billing/x/users/{ONE}",
        "/billing?before=x",
    ):
        look(light_doors, path, 422)


def test_months_come_in_pages_back_to_the_first(light_doors: House) -> None:
    light_doors.clock.now = datetime(2027, 6, 5, tzinfo=UTC)
    seen: list[str] = []
    path = "/billing"
    while True:
        page = look(light_doors, path)
        seen += [cells[0] for cells in months_in(page)]
        if "Older months" not in page.links:
            break
        path = page.links["Older months"]

    months = [Month(2027, 6).plus(-back) for back in range(28)]
    assert seen == [month.label for month in months]
    assert months[-1] == MARCH
    assert "Not billed yet" in look(light_doors, "/billing").text


def test_an_empty_ledger_has_an_overview(light_platform: SmallPlatform, open_doors: OpenDoors) -> None:
    with open_doors(light_platform) as house:
        page = look(house, "/billing")

    assert [cells[0] for cells in months_in(page)] == [APRIL.label, MARCH.label]
    assert "None in these months." in page.text
