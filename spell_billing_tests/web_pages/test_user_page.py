"""`/u/{token}`: a user's own page, and nobody else's; readable by everyone, with nothing from outside."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from spell_billing.core.drafting import Account, draft_invoice
from spell_billing.core.month import Month
from spell_billing.ledger.rows import Actor
from spell_billing.web.keys import derive_key
from spell_billing.web.links import Links
from spell_billing.web.login import PURPOSE as SESSION
from spell_billing_tests.proof.small_platform import APRIL, MARCH, SmallPlatform, bill_march
from spell_billing_tests.web.house import House
from spell_billing_tests.web_pages.reading_pages import Page
from spell_billing_tests.web_pages.world import HOSTILE, OpenDoors, hear, moment, token_of

ONE, TWO = "user-0001", "user-0002"


def page_of(house: House, user_id: str, query: str = "") -> Page:
    answer = house.ask("GET", f"/u/{token_of(house, user_id)}{query}")
    assert answer.status == 200, answer.text
    page = Page(answer.text)
    page.must_be_sound()
    return page


@pytest.mark.both_databases
def test_the_page_shows_invoices_with_words_and_links(doors: House, platform: SmallPlatform) -> None:
    hear(doors, ONE, status="paid", attempts=1)
    platform.source.calls([(ONE, 100, moment(1))])

    page = page_of(doors, ONE)

    assert "March 2025 $12.34 Paid" in page.text
    assert page.links["View the invoice"] == "https://invoice.example.com/i/1"
    assert page.links["PDF"] == "https://invoice.example.com/i/1/pdf"
    assert page.row("Spell Platform API Usage - March 2025 (2 calls, $12.34)")[1] == "$12.34"
    # 57.5 of 720 hours have passed.
    assert "April 2025 so far Calls 1 Cost so far $1.00 Estimate for the whole month $12.52" in page.text
    assert "As of 3 April 2025, 09:30 UTC" in page.text
    assert "It works until 4 April 2025, 09:30 UTC" in page.text


def test_the_page_shows_discount_and_tax_beside_the_total(doors: House, platform: SmallPlatform) -> None:
    platform.sql("UPDATE ledger_invoices SET tax_cents = 203, discount_cents = 166")

    page = page_of(doors, ONE)

    # What the invoice charges stands at its head.
    assert "March 2025 $12.71 Sent, to be paid" in page.text
    assert [page.row(name)[1] for name in ("Total", "Discount", "Tax")] == ["$12.34", "-$1.66", "$2.03"]


def test_the_chart_has_a_description_and_the_same_as_a_table(doors: House, platform: SmallPlatform) -> None:
    platform.source.calls([(ONE, 100, moment(1))])

    page = page_of(doors, ONE)

    assert page.row("March 2025")[1] == "$12.34"
    assert page.row("April 2025")[1:] == ["$1.00 so far", "$12.52"]
    assert ("svg", "img") in [(tag, values.get("role")) for tag, values in page.tags]
    assert "From March 2025 to April 2025, month by month. The highest is March 2025 with $12.34" in page.text
    bars = [int(values["height"] or 0) for tag, values in page.tags if values.get("class") == "bar"]
    assert len(bars) == 2
    assert bars[0] > bars[1] > 0


def test_the_page_is_of_one_user_alone(light_doors: House) -> None:
    page = page_of(light_doors, ONE)

    assert TWO not in page.source
    assert str(light_doors.ledger.bills_of_user(MARCH, TWO)[0].stripe_invoice_id) not in page.source
    assert set(page.links.values()) <= {"#main"}


@pytest.mark.parametrize(
    "path", ["/u/", "/u/x", "/u/{token}x", "/u/x{token}", "/u/{token}/", "/u//{token}", "/U/{token}"]
)
def test_a_changed_address_shows_nothing(light_doors: House, path: str) -> None:
    token = token_of(light_doors, ONE)

    answer = light_doors.ask("GET", path.format(token=token), accept="text/html")

    assert answer.status in {303, 401, 403, 404}
    assert "March" not in answer.text
    assert ONE not in answer.text


def test_a_token_of_another_purpose_shows_nothing(light_doors: House) -> None:
    key = derive_key(light_doors.context.web.admin_secret, SESSION)
    until = datetime(2030, 1, 1, tzinfo=UTC)
    forged = Links(key, light_doors.clock).make(ONE, until)
    cookie = light_doors.sign_in().partition("=")[2]

    for token in (forged, cookie):
        answer = light_doors.ask("GET", f"/u/{token}")
        assert (answer.status, ONE in answer.text) == (403, False)


def test_an_expired_link_says_so_and_shows_nothing(light_doors: House) -> None:
    token = token_of(light_doors, ONE, hours=1)
    light_doors.clock.pass_by(hours=1)

    answer = light_doors.ask("GET", f"/u/{token}")

    assert (answer.status, ONE in answer.text) == (410, False)
    page = Page(answer.text)
    page.must_be_sound()
    assert "This link has expired" in page.text


def test_the_address_leaks_to_nobody(light_doors: House) -> None:
    hear(light_doors, ONE)
    token = token_of(light_doors, ONE)

    answer = light_doors.ask("GET", f"/u/{token}")

    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
    outside = [
        values
        for tag, values in Page(answer.text).tags
        if tag == "a" and (values["href"] or "").startswith("https")
    ]
    assert len(outside) == 2
    assert {values["rel"] for values in outside} == {"noopener noreferrer"}


def test_hostile_names_are_only_words(platform: SmallPlatform, open_doors: OpenDoors) -> None:
    plan = "<b>Pro</b><img src=x onerror=alert(1)>"
    platform.source.plans([{"plan_id": "pro", "name": plan, "included_cents": 10}])
    platform.source.accounts(
        [{"user_id": user, "stripe_customer_id": "cus_1", "plan_id": "pro"} for user in HOSTILE]
    )
    platform.double.add_customer("cus_1")
    platform.calls(MARCH, *((user, 100) for user in HOSTILE))
    platform.bill(MARCH)

    with open_doors(platform) as house:
        for user in HOSTILE:
            page = page_of(house, user)
            assert " ".join(user.split()) in page.text
            assert page.row(f"Included in {plan}")[1] == "-$0.10"


def test_what_became_of_bills_is_told_in_words(light_platform: SmallPlatform, open_doors: OpenDoors) -> None:
    light_platform.accounts(ONE, TWO)
    light_platform.calls(MARCH, (ONE, 100), (TWO, 100), ("user-0004", 100))
    light_platform.bill(MARCH)
    light_platform.void(MARCH, ONE)
    light_platform.bill(MARCH)

    with open_doors(light_platform) as house:
        hear(house, TWO, failed_attempts=1)
        voided, failed, missing = (page_of(house, user).text for user in (ONE, TWO, "user-0004"))

    assert "March 2025 $1.00 Sent, to be paid" in voided
    assert "March 2025 $1.00 Cancelled, nothing to pay" in voided
    assert "Payment failed, please pay the invoice" in failed
    assert "Not sent yet: we are looking into it" in missing
    assert "billing_accounts" not in missing


def test_many_invoices_come_in_pages(light_platform: SmallPlatform, open_doors: OpenDoors) -> None:
    bill_march(light_platform)
    months = [MARCH.plus(-back) for back in range(1, 30)]
    with light_platform.ledger() as ledger:
        for month in months:
            with ledger.session(month, Actor("tester")) as session:
                draft = draft_invoice(month, ONE, calls=1, usage_cents=Decimal(100), account=Account("cus_1"))
                session.replace_drafts([draft], usage_version="v0001", calls=1, usage_cents=Decimal(100))
    seen: list[str] = []

    with open_doors(light_platform) as house:
        page = page_of(house, ONE)
        seen += [text for level, text in page.headings if level == 3]
        bars = [values for _, values in page.tags if values.get("class") == "bar"]
        while "Older invoices" in page.links:
            answer = house.ask("GET", page.links["Older invoices"])
            page = Page(answer.text)
            page.must_be_sound()
            seen += [text for level, text in page.headings if level == 3]
            assert page.links["Newest invoices"].startswith("/u/")
        wrong = house.ask("GET", f"/u/{token_of(house, ONE)}?before=x")

    assert seen == [month.label for month in (MARCH, *months)]
    assert len(bars) == 12
    assert wrong.status == 422


def test_the_invoices_are_there_when_the_platform_s_database_is_not(
    light_doors: House, light_platform: SmallPlatform, caplog: pytest.LogCaptureFixture
) -> None:
    light_platform.sql("DROP TABLE usage_counters")

    page = page_of(light_doors, ONE)

    assert "The usage so far cannot be shown right now" in page.text
    assert "March 2025 $12.34" in page.text
    assert "without the usage so far" in caplog.text


def test_two_currencies_have_a_chart_each(light_platform: SmallPlatform, open_doors: OpenDoors) -> None:
    light_platform.accounts(ONE, currency="eur")
    light_platform.calls(Month(2025, 2), (ONE, 300))
    light_platform.bill(Month(2025, 2))
    light_platform.sql("UPDATE billing_accounts SET currency = 'jpy'")
    light_platform.calls(MARCH, (ONE, 500))
    light_platform.bill(MARCH)
    light_platform.calls(APRIL, (ONE, 7), day=1)

    with open_doors(light_platform) as house:
        page = page_of(house, ONE)

    captions = [text for text in page.words if text.startswith("Cost by month, in")]
    assert set(captions) == {"Cost by month, in EUR", "Cost by month, in JPY"}
    assert page.row("February 2025")[1] == "€3.00"
    assert page.row("April 2025")[1] == "¥7 so far"
