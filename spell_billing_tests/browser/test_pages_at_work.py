"""What finance does on the pages in a browser without scripts: void, bill again, search; on a phone too."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from spell_billing_tests.triggering.served import Served

OPEN_PAGE = Callable[..., Page]
SIGN_IN = Callable[[Page], None]
MONTH = "/billing/2025-03"
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 780}
_RUN_MS = 120_000
SIDEWAYS = """() => [document.documentElement, ...document.querySelectorAll('.scroll')]
  .filter((each) => each.checkVisibility() && each.scrollWidth > each.clientWidth)
  .map((each) => each.getAttribute('aria-label') || each.tagName)"""
"""What can be scrolled sideways, so that some of it is out of sight."""


def test_a_wrong_invoice_is_voided_and_billed_again_and_the_page_says_by_itself_when_that_is_done(
    served: Served, open_page: OPEN_PAGE, sign_in: SIGN_IN
) -> None:
    (wrong,) = [each.id for each in served.invoices("2025-03") if each.total_cents == 250]
    served.double.return_payment(wrong)
    page = open_page(viewport=DESKTOP, java_script_enabled=False)
    page.goto(f"{MONTH}/users/user-0002")
    sign_in(page)
    page.get_by_text("The invoice is wrong").click()
    page.get_by_label("Then").select_option("bill the user again")
    page.get_by_label("Why, for the audit trail").fill("the rows were of another user, as support found out")
    page.get_by_role("button", name="Void this invoice").click()
    expect(page.get_by_role("status")).to_contain_text("The invoice is void.")
    history = page.get_by_role("region", name="History")
    expect(history.get_by_text("the rows were of another user").last).to_be_visible()
    assert page.evaluate(SIDEWAYS) == [], "the reason is not cut, beside the session's long name"

    page.get_by_role("button", name="Bill March 2025 again").click()

    expect(page.get_by_role("status")).to_contain_text("March 2025 is being billed.")
    month = page.context.new_page()
    month.goto(MONTH)
    expect(month.get_by_text("Being billed", exact=True)).to_be_visible()
    expect(month.get_by_role("button", name="Try again")).to_be_disabled()
    expect(month.get_by_role("region", name="Runs").get_by_role("row", name="Under way")).to_be_visible()
    for each in (page, month):
        ended = "The billing run has ended: everyone who could be billed was."
        expect(each.get_by_role("status")).to_contain_text(ended, timeout=_RUN_MS)
    expect(month.get_by_role("button", name="Try again")).to_be_enabled()
    own = [each.status for each in served.invoices("2025-03") if each.total_cents == 250]
    assert own == ["void", "paid"]
    assert served.double.violations == []


def test_a_search_shows_what_was_found_at_once(open_page: OPEN_PAGE, sign_in: SIGN_IN) -> None:
    page = open_page(viewport={"width": 1280, "height": 500}, java_script_enabled=False)
    page.goto(MONTH)
    sign_in(page)

    page.get_by_label("Search", exact=True).fill("user-0001")
    page.get_by_role("button", name="Search").click()
    expect(page).to_have_url(re.compile("#users$"))
    expect(page.get_by_role("heading", name="Users")).to_be_in_viewport()

    page.goto(MONTH)
    page.get_by_role("link", name="no billing account").click()
    expect(page.get_by_role("heading", name="Users")).to_be_in_viewport()


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_no_table_and_no_chart_is_out_of_sight(
    served: Served, open_page: OPEN_PAGE, sign_in: SIGN_IN, viewport: dict[str, int]
) -> None:
    page = open_page(viewport=viewport)
    page.goto("/billing")
    sign_in(page)
    link = str(served.ask("/v1/users/user-0001/link", {})["url"])
    for path in ("/billing", MONTH, f"{MONTH}/users/user-0001", f"{MONTH}/users/user-0009", link):
        page.goto(path)
        for summary in page.locator("summary").all():
            summary.click()
        assert page.evaluate(SIDEWAYS) == [], path
    page.goto("/billing")
    month = page.get_by_role("region", name="Months").locator("tbody tr").first
    assert ("Invoiced" in labels(month)) == (viewport == PHONE), "on a phone each amount has its name"


def labels(row: Locator) -> list[str]:
    """Give the names that stand before the cells of a row."""
    script = "row => [...row.cells].map((cell) => getComputedStyle(cell, '::before').content.slice(1, -1))"
    return list(row.evaluate(script))


def test_an_invoice_of_the_stand_in_fits_a_phone(served: Served, browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 780})
    try:
        for invoice in served.invoices("2025-03"):
            page.goto(f"{served.double.base_url}/i/{invoice.id}")
            expect(page.get_by_role("heading", level=1)).to_contain_text("Invoice")
            assert page.evaluate(SIDEWAYS) == []
    finally:
        page.close()
