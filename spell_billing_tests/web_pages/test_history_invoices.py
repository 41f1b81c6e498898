"""`GET /v1/users/{user_id}/invoices`: every bill of a user, the newest first, to the cent."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import quote

from spell_billing.core.month import Month
from spell_billing.ledger.charges import Charge, keep_charges
from spell_billing_tests.proof.small_platform import APRIL, MARCH, MAY, SmallPlatform
from spell_billing_tests.web.house import House
from spell_billing_tests.web_pages.world import HOSTILE, OpenDoors, api, hear, token_of

ONE, TWO, FREE = "user-0001", "user-0002", "user-0003"


def test_an_invoice_is_told_to_the_cent(doors: House) -> None:
    bill = doors.ledger.bills_of_user(MARCH, ONE)[0]

    answer = doors.admit("GET", api(ONE, "invoices"))

    (invoice,) = answer.json["invoices"]
    assert answer.status == 200
    assert answer.json["user_id"] == ONE
    assert answer.json["next"] is None
    assert (invoice["month"], invoice["month_name"], invoice["generation"]) == ("2025-03", "March 2025", 1)
    assert (invoice["state"], invoice["state_in_words"]) == ("finalized", "Sent, to be paid")
    assert (invoice["calls"], invoice["total_cents"], invoice["total"]) == (2, 1234, "$12.34")
    assert (invoice["currency"], invoice["exact_usage_cents"]) == ("usd", "1234")
    assert (invoice["discount_cents"], invoice["tax_cents"], invoice["invoice_cents"]) == (None, None, 1234)
    assert invoice["stripe_invoice_id"] == bill.stripe_invoice_id
    assert [line["amount"] for line in invoice["lines"]] == ["$12.34"]


def test_links_and_payment_are_unknown_until_stripe_s_event_was_read(doors: House) -> None:
    def invoice() -> dict[str, object]:
        found: dict[str, object] = doors.admit("GET", api(ONE, "invoices")).json["invoices"][0]
        return found

    before = invoice()
    hear(
        doors,
        ONE,
        failed_attempts=1,
        decline_code="stolen_card",
        next_attempt_at=datetime(2025, 4, 6, tzinfo=UTC),
    )
    after = invoice()

    assert (before["hosted_invoice_url"], before["invoice_pdf"], before["payment"]) == (None, None, None)
    assert after["hosted_invoice_url"] == "https://invoice.example.com/i/1"
    assert after["invoice_pdf"] == "https://invoice.example.com/i/1/pdf"
    assert after["state_in_words"] == "Payment failed, tried again on 6 April 2025"
    assert after["payment"] == {
        "status": "open",
        "attempts": 1,
        "failed_attempts": 1,
        "next_attempt_at": "2025-04-06T00:00:00+00:00",
        "amount_due_cents": 1234,
        "amount_due": "$12.34",
        "amount_paid_cents": 0,
        "amount_paid": "$0.00",
        "moved_cents": 0,
        "from_balance_cents": 0,
        "credited_cents": 0,
        "refunded_cents": 0,
        "disputed_cents": 0,
        "in_words": "$12.34 due",
        "as_of": "2025-04-03T09:30:00+00:00",
    }
    assert "stolen" not in json.dumps(after)


def test_what_went_back_is_told(doors: House) -> None:
    payment = hear(doors, ONE, status="paid", returned_outside_cents=34)
    charge = Charge(
        charge_id="ch_1",
        stripe_invoice_id=payment.stripe_invoice_id,
        month=str(MARCH),
        currency="usd",
        amount_cents=1234,
        refunded_cents=400,
        disputed_cents=200,
        dispute="lost",
        as_of=doors.clock(),
    )
    with doors.ledger.writing() as connection:
        keep_charges(connection, [charge])

    (invoice,) = doors.admit("GET", api(ONE, "invoices")).json["invoices"]

    assert (invoice["payment"]["refunded_cents"], invoice["payment"]["disputed_cents"]) == (434, 200)
    assert invoice["state_in_words"] == "Paid, $4.34 refunded"


def test_an_address_that_is_no_web_page_is_not_passed_on(light_doors: House) -> None:
    for attempts, url in enumerate(["javascript:alert(1)", "data:text/html,x", "//example.com", "ftp://x"]):
        hear(light_doors, ONE, attempts=attempts, hosted_invoice_url=url, invoice_pdf=url)

        (invoice,) = light_doors.admit("GET", api(ONE, "invoices")).json["invoices"]

        assert (invoice["hosted_invoice_url"], invoice["invoice_pdf"]) == (None, None), url


def test_a_breakdown_adds_up_whatever_the_bill_has(platform: SmallPlatform, open_doors: OpenDoors) -> None:
    platform.source.plans([{"plan_id": "pro", "name": "Pro", "included_cents": 300}])
    platform.accounts(ONE, plan_id="pro")
    platform.calls(MARCH, (ONE, -700))
    platform.bill(MARCH)
    platform.calls(APRIL, (ONE, 1000))
    platform.bill(APRIL)
    platform.calls(APRIL, (ONE, 55))
    platform.calls(MAY, (ONE, 2000))
    platform.bill(MAY)

    with open_doors(platform) as house:
        invoices = house.admit("GET", api(ONE, "invoices")).json["invoices"]

    assert [each["month"] for each in invoices] == ["2025-05", "2025-04", "2025-03"]
    names = ("usage_cents", "covered_cents", "late_cents", "credit_applied_cents", "other_cents")
    assert [tuple(each["breakdown"][name] for name in names) for each in invoices] == [
        (2000, 300, 55, 0, 0),
        (1000, 300, 0, 700, 0),
        (-700, 0, 0, 0, 0),
    ]
    for each in invoices:
        usage, covered, late, applied, other = (each["breakdown"][name] for name in names)
        assert usage - covered + late - applied + other == each["total_cents"]
        assert sum(line["amount_cents"] for line in each["lines"]) == each["total_cents"]
    assert invoices[2]["carried_cents"] == 700
    assert invoices[2]["state_in_words"] == "Nothing to pay: the credit goes to a later invoice"


def test_a_voided_invoice_stays_and_is_shown_as_void(platform: SmallPlatform, open_doors: OpenDoors) -> None:
    platform.accounts(ONE)
    platform.calls(MARCH, (ONE, 100))
    platform.bill(MARCH)
    platform.void(MARCH, ONE)
    platform.bill(MARCH)

    with open_doors(platform) as house:
        invoices = house.admit("GET", api(ONE, "invoices")).json["invoices"]

    assert [(each["generation"], each["state"]) for each in invoices] == [(2, "finalized"), (1, "void")]
    assert invoices[1]["state_in_words"] == "Cancelled, nothing to pay"


def test_pages_show_each_invoice_once(light_platform: SmallPlatform, open_doors: OpenDoors) -> None:
    light_platform.accounts(ONE)
    months = [Month(2025, number) for number in range(1, 4)]
    for month in months:
        light_platform.calls(month, (ONE, 100))
        light_platform.bill(month)
    light_platform.void(months[1], ONE)
    light_platform.bill(months[1])

    with open_doors(light_platform) as house:
        for limit in (1, 2, 3, 4, 100):
            seen = list(in_pages(house, limit))
            assert seen == [("2025-03", 1), ("2025-02", 2), ("2025-02", 1), ("2025-01", 1)], limit


def in_pages(house: House, limit: int) -> Iterator[tuple[str, int]]:
    path = f"invoices?limit={limit}"
    while True:
        page = house.admit("GET", api(ONE, path)).json
        assert 0 < len(page["invoices"]) <= limit
        yield from ((each["month"], each["generation"]) for each in page["invoices"])
        if page["next"] is None:
            return
        path = f"invoices?limit={limit}&before={page['next']}"


def test_a_wrong_limit_is_refused(light_doors: House) -> None:
    for limit in ("0", "101", "-1", "1.5", "", "a", "१", "1e2", "9" * 5_000, "+5"):
        answer = light_doors.admit("GET", api(ONE, f"invoices?limit={quote(limit)}"))
        assert (answer.status, answer.json["error"]["code"]) == (422, "wrong_limit"), limit


def test_a_wrong_cursor_is_refused(light_doors: House) -> None:
    spoilt = ("1", "2025-03", "x-2025-03", "-2025-03", "0-2025-03", "-1-2025-03", "1.0-2025-03", "1-x", "1-")
    for before in ("", "x", "%00", "1-%00", "[]", "é", "²-2025-03", f"{2**31}-2025-03", *spoilt):
        answer = light_doors.admit("GET", api(ONE, f"invoices?before={quote(before, safe='%')}"))
        assert (answer.status, answer.json["error"]["code"]) == (422, "wrong_cursor"), before


def test_a_user_without_an_invoice_is_known_by_account_or_usage(
    doors: House, platform: SmallPlatform
) -> None:
    platform.source.accounts([{"user_id": "only-account", "stripe_customer_id": "cus_1"}])
    platform.source.calls([("only-usage", 1, doors.clock())])

    for user in ("only-account", "only-usage"):
        answer = doors.admit("GET", api(user, "invoices"))
        assert (answer.status, answer.json["invoices"]) == (200, [])
    answer = doors.admit("GET", api("nobody", "invoices"))
    assert (answer.status, answer.json["error"]["code"]) == (404, "unknown_user")


def test_only_the_platform_learns_why_there_is_no_invoice(
    light_platform: SmallPlatform, open_doors: OpenDoors
) -> None:
    light_platform.calls(MARCH, (ONE, 100))
    light_platform.bill(MARCH)

    with open_doors(light_platform) as house:
        token = token_of(house, ONE)
        (internal,) = house.admit("GET", api(ONE, "invoices")).json["invoices"]
        (own,) = house.ask("GET", api(ONE, f"invoices?token={token}")).json["invoices"]

    assert internal["reason"] == "no_billing_account"
    assert "billing_accounts" in internal["why"]
    assert "reason" not in own
    assert "why" not in own
    assert own["state_in_words"] == "Not sent yet: we are looking into it"


def test_odd_user_ids_work_everywhere(platform: SmallPlatform, open_doors: OpenDoors) -> None:
    platform.source.accounts([{"user_id": user, "stripe_customer_id": "cus_1"} for user in HOSTILE])
    platform.double.add_customer("cus_1")
    platform.calls(MARCH, *((user, 100 + place) for place, user in enumerate(HOSTILE)))
    platform.bill(MARCH)
    platform.calls(APRIL, *((user, 7) for user in HOSTILE), day=2)

    with open_doors(platform) as house:
        for place, user in enumerate(HOSTILE):
            found = house.admit("GET", api(user, "invoices"))
            assert (found.status, found.json["user_id"]) == (200, user)
            assert [each["total_cents"] for each in found.json["invoices"]] == [100 + place]
            assert house.admit("GET", api(user, "usage")).json["exact_usage_cents"] == "7"
            token = token_of(house, user)
            assert house.ask("GET", api(user, f"usage?token={token}")).status == 200
            assert house.ask("GET", f"/u/{token}").status == 200
