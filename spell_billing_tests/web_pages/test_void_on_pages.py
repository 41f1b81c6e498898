"""A wrong invoice is voided on its user's page, as `spell-billing void` does it; the user is billed again."""

from collections.abc import Iterator
from urllib.parse import urlencode

import pytest

from spell_billing.core.outcomes import Reason, State
from spell_billing_tests.proof.small_platform import MARCH, SmallPlatform
from spell_billing_tests.web.house import Answer, House
from spell_billing_tests.web_pages.reading_pages import Page
from spell_billing_tests.web_pages.world import OpenDoors

ONE, TWO = "user-0001", "user-0002"
PATH = f"/billing/2025-03/users/{ONE}"


@pytest.fixture
def at(platform: SmallPlatform, open_doors: OpenDoors) -> Iterator[House]:
    """Serve a billed March, with Stripe."""
    platform.accounts(ONE, TWO)
    platform.calls(MARCH, (ONE, 1000), (TWO, 500))
    platform.bill(MARCH)
    with open_doors(platform, STRIPE_API_KEY="sk_test_pages", STRIPE_API_BASE=platform.double.base_url) as at:
        yield at


def void(at: House, **fields: str) -> Answer:
    body = urlencode(
        {"decision": "void", "user_id": ONE, "then": "bill-again", "reason": "wrong rows", **fields}
    )
    path, headers = "/billing/2025-03/decide", {"sec_fetch_site": "same-origin", "accept": "text/html"}
    return at.ask("POST", path, body, cookie=at.sign_in(), **headers)


def look(at: House, path: str = PATH) -> Page:
    page = Page(at.admit("GET", path, accept="text/html").text)
    page.must_be_sound()
    return page


def headings(page: Page) -> list[str]:
    return [text for level, text in page.headings if level == 2]


def test_an_invoice_is_voided_once_and_the_page_then_offers_to_bill_again(
    at: House, platform: SmallPlatform
) -> None:
    assert "Void this invoice" in headings(look(at))
    assert "Bill again" not in headings(look(at))

    done = void(at)

    assert (done.status, done.headers["location"]) == (303, f"{PATH}?done=void-bill-again")
    (bill,) = at.ledger.bills_of_user(MARCH, ONE)
    assert (bill.state, bill.reason, bill.message) == (State.VOID, Reason.VOIDED, "wrong rows")
    assert [each.status for each in platform.double.invoices() if each.id == bill.stripe_invoice_id] == [
        "void"
    ]
    trail = [each for each in at.ledger.audit_trail(MARCH, ONE) if each["action"].startswith("void")]
    assert [each["action"] for each in trail] == ["void_requested", "voided"]
    assert {each["actor"].partition(" ")[0] for each in trail} == {"session"}
    page = look(at, done.headers["location"])
    assert "The invoice is void. Correct the rows first, then bill the month again." in page.text
    assert "Void this invoice" not in headings(page)
    buttons = [values for tag, values in page.tags if tag == "button" and values.get("value") == "bill"]
    assert buttons == [{"name": "decision", "value": "bill"}], "the primary button"

    platform.bill(MARCH)
    assert [bill.state for bill in at.ledger.bills_of_user(MARCH, ONE)] == [State.VOID, State.FINALIZED]
    assert [each.state for each in at.ledger.bills_of_user(MARCH, TWO)] == [State.FINALIZED]


def test_the_page_names_goodwill_that_the_next_invoice_charges_again(
    at: House, platform: SmallPlatform
) -> None:
    platform.credit(MARCH, ONE, 300, "outage")

    done = void(at)

    assert done.status == 200
    assert "The invoice is void. $3.00 had been given back of the invoice" in done.text
    assert f"spell-billing credit --month 2025-03 --user {ONE} --cents 300" in done.text


def test_one_that_is_void_for_good_is_not_billed_again(at: House, platform: SmallPlatform) -> None:
    done = void(at, then="for-good")

    assert done.headers["location"] == f"{PATH}?done=void-for-good"
    platform.bill(MARCH)
    (bill,) = at.ledger.bills_of_user(MARCH, ONE)
    assert (bill.state, bill.reason) == (State.VOID, Reason.WRITTEN_OFF)
    assert "Bill again" not in headings(look(at))


def test_what_cannot_be_voided_is_refused_on_the_page_and_the_form_keeps_what_was_written(
    at: House, platform: SmallPlatform
) -> None:
    (bill,) = at.ledger.bills_of_user(MARCH, ONE)
    paid = f"/v1/invoices/{bill.stripe_invoice_id}/pay"
    platform.person("POST", paid, {"paid_out_of_band": "true"})

    refused = void(at, then="for-good", reason="wrong <rows>")

    assert refused.status == 409
    page = Page(refused.text)
    page.must_be_sound()
    assert "is paid, and Stripe voids no paid invoice." in page.text
    assert "Nothing was changed." in page.text
    assert ("details", {"open": None}) in page.tags
    assert [each["value"] for tag, each in page.tags if each.get("id") == "void-reason"] == ["wrong <rows>"]
    assert ("option", {"value": "for-good", "selected": None}) in page.tags
    assert page.links["Billing overview"] == "/billing"
    assert at.ledger.bills_of_user(MARCH, ONE)[-1].state is State.FINALIZED
    for wrong in (
        {"reason": " "},
        {"then": "later"},
        {"user_id": "nobody"},
        {"user_id": "a\x00"},
        {"user_id": ""},
    ):
        assert void(at, **wrong).status in {404, 422}
