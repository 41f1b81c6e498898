"""What finance reads on pages: commands as code, words for codes, counts that agree, a way back."""

import pytest

from spell_billing.invoicing.review import hold
from spell_billing.ledger.rows import Actor
from spell_billing_tests.proof.small_platform import APRIL, MARCH, SmallPlatform
from spell_billing_tests.web.house import House
from spell_billing_tests.web_pages.reading_pages import Page
from spell_billing_tests.web_pages.world import OpenDoors, hear, moment

ONE, TWO, HELD, LOST = "user-0001", "user-0002", "user-0003", "user-0004"
MONTH = "/billing/2025-03"


def look(at: House, path: str, status: int = 200) -> Page:
    answer = at.admit("GET", path, accept="text/html")
    assert answer.status == status, answer.text
    page = Page(answer.text)
    page.must_be_sound()
    return page


@pytest.fixture
def troubled(light_platform: SmallPlatform) -> SmallPlatform:
    """Give a March with one bill sent, one voided, one held and one failed."""
    platform = light_platform
    platform.accounts(ONE, TWO, HELD)
    platform.calls(MARCH, (ONE, 1000), (TWO, 500), (HELD, 300), (LOST, 70))
    platform.draft(MARCH)
    with platform.ledger() as ledger:
        hold(ledger, MARCH, Actor("anna"), "asked to wait", HELD)
    platform.bill(MARCH)
    platform.void(MARCH, TWO)
    return platform


@pytest.mark.parametrize("path", ["/billing", MONTH, f"{MONTH}/users/{HELD}", f"{MONTH}/users/{TWO}"])
def test_commands_are_shown_as_code(troubled: SmallPlatform, open_doors: OpenDoors, path: str) -> None:
    with open_doors(troubled) as at:
        source = look(at, path).source

    command = "void" if path.endswith(TWO) else "hold"
    assert f"<code>spell-billing {command}</code>" in source
    assert "`" not in source.partition("</style>")[2]
    assert "&lt;code" not in source


def test_who_waits_is_the_same_number_everywhere_a_voided_bill_included(
    troubled: SmallPlatform, open_doors: OpenDoors
) -> None:
    with open_doors(troubled) as at:
        month, overview = look(at, MONTH), look(at, "/billing")

    assert sum(int(month.row(reason)[2]) for reason in ("voided", "held", "no billing account")) == 3
    words = month.words
    assert words[words.index("Without invoice") + 1] == "3"
    (row,) = (cells for cells in overview.rows if len(cells) == 10 and cells[0] == "March 2025")
    assert row[8] == "3"
    assert "March 2025 : 3 users without an invoice" in overview.text


def test_a_month_that_was_not_drafted_has_no_numbers_rather_than_zeros(
    troubled: SmallPlatform, open_doors: OpenDoors
) -> None:
    with open_doors(troubled) as at:
        row = look(at, "/billing").row("April 2025")

    assert row[1:] == ["Not over yet", "", "", "", "", "", "", "", ""]


def test_search_and_reasons_lead_to_the_users_table(troubled: SmallPlatform, open_doors: OpenDoors) -> None:
    with open_doors(troubled) as at:
        page = look(at, MONTH)

    (search,) = [values["action"] for tag, values in page.tags if tag == "form" and values.get("role")]
    assert search == f"{MONTH}#users"
    assert page.links["voided"] == f"{MONTH}?state=void&reason=voided#users"


def test_a_failed_bill_offers_first_what_is_wanted_says_the_reason_once_and_names_other_months(
    troubled: SmallPlatform, open_doors: OpenDoors
) -> None:
    troubled.calls(APRIL, (LOST, 80))
    troubled.bill(APRIL)
    with open_doors(troubled) as at:
        page = look(at, f"{MONTH}/users/{LOST}")

    assert [text for level, text in page.headings if level == 2][:3] == ["Bill again", "Hold", "Close"]
    buttons = [values.get("class") for tag, values in page.tags if tag == "button" and "name" in values]
    assert buttons == [None, "plain"], "the first alone is primary"
    assert page.text.count("The user has no row in billing_accounts.") == 1
    assert page.links["April 2025"] == f"/billing/2025-04/users/{LOST}"


def test_times_states_and_counts_are_in_words(troubled: SmallPlatform, open_doors: OpenDoors) -> None:
    with open_doors(troubled) as at:
        hear(at, ONE, failed_attempts=1, next_attempt_at=moment(5))
        text = look(at, f"{MONTH}/users/{ONE}").text

    assert "of $10.00, for 1 call. Payment failed." in text
    assert "1 call in version" in text
    assert "the next 5 April 2025, 12:00 UTC" in text
    assert "payment_failed" not in text


def test_a_month_with_nothing_to_hold_has_no_button_for_it_and_each_button_has_a_reason_of_its_own(
    troubled: SmallPlatform, open_doors: OpenDoors
) -> None:
    with open_doors(troubled) as at:
        page = look(at, MONTH)
        for user in (HELD, LOST):
            troubled.settle(MARCH, user)
        settled = look(at, MONTH)

    reasons = [values["id"] for tag, values in page.tags if tag == "input" and values.get("name") == "reason"]
    assert reasons == ["hold-reason", "release-reason"]
    assert "Hold all bills" in page.text
    assert "Billed in part" in settled.text
    assert "Hold all bills" not in settled.text


@pytest.mark.parametrize(
    ("path", "status", "back"),
    [
        ("/billing/2026-13", 422, "/billing"),
        (f"{MONTH}?state=x", 422, MONTH),
        (f"{MONTH}?after=x", 422, MONTH),
        (f"{MONTH}/compare", 404, "/billing"),
        ("/billing/2025-03/users", 404, "/billing"),
    ],
)
def test_an_error_below_billing_keeps_the_header_and_a_way_back(
    light_doors: House, path: str, status: int, back: str
) -> None:
    page = look(light_doors, path, status)

    assert page.links["Billing overview"] == "/billing"
    assert page.links["Back"] == back


def test_a_strangers_error_has_no_header_of_the_overview(light_doors: House) -> None:
    answer = light_doors.ask("POST", f"{MONTH}/decide", "decision=bill", accept="text/html")

    assert answer.status == 401
    assert "Sign out" not in answer.text
    assert "Sign out" not in light_doors.ask("GET", "/u/none", accept="text/html").text
