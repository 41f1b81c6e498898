"""Lists: newest first, cursors, filters, read-after-write; and the event log."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from spell_billing.stripe_double import StripeDouble

Call = Callable[..., Any]

DAY = 24 * 3600


def ids(page: Any) -> list[str]:
    return [each["id"] for each in page["data"]]


@pytest.fixture
def five(draft: Call) -> list[str]:
    """Give the ids of five invoices, oldest first."""
    return [draft()["id"] for _ in range(5)]


def test_lists_are_newest_first_ten_by_default(ok: Call, draft: Call) -> None:
    made = [draft()["id"] for _ in range(12)]
    page = ok("GET", "/v1/invoices")
    assert ids(page) == made[:1:-1]
    assert (page["object"], page["url"], page["has_more"]) == ("list", "/v1/invoices", True)
    assert ids(ok("GET", "/v1/invoices", {"limit": 100})) == made[::-1]


def test_starting_after_walks_to_the_oldest(ok: Call, five: list[str]) -> None:
    first = ok("GET", "/v1/invoices", {"limit": 2})
    second = ok("GET", "/v1/invoices", {"limit": 2, "starting_after": ids(first)[-1]})
    third = ok("GET", "/v1/invoices", {"limit": 2, "starting_after": ids(second)[-1]})
    assert ids(first) + ids(second) + ids(third) == five[::-1]
    assert [page["has_more"] for page in (first, second, third)] == [True, True, False]


def test_a_full_last_page_has_no_more(ok: Call, five: list[str]) -> None:
    page = ok("GET", "/v1/invoices", {"limit": 2, "starting_after": five[2]})
    assert (ids(page), page["has_more"]) == ([five[1], five[0]], False)


def test_ending_before_gives_the_nearest_newer_ones(ok: Call, five: list[str]) -> None:
    page = ok("GET", "/v1/invoices", {"limit": 2, "ending_before": five[1]})
    assert (ids(page), page["has_more"]) == ([five[3], five[2]], True)
    page = ok("GET", "/v1/invoices", {"limit": 2, "ending_before": five[3]})
    assert (ids(page), page["has_more"]) == ([five[4]], False)


def test_both_cursors_at_once_are_refused(refused: Call, five: list[str]) -> None:
    params = {"ending_before": five[1], "starting_after": five[2]}
    assert refused("GET", "/v1/invoices", params)[0] == 400


def test_a_new_invoice_does_not_shift_the_pages(ok: Call, five: list[str], draft: Call) -> None:
    first = ok("GET", "/v1/invoices", {"limit": 2})
    draft()
    second = ok("GET", "/v1/invoices", {"limit": 3, "starting_after": ids(first)[-1]})
    assert ids(first) + ids(second) == five[::-1]


def test_a_deleted_draft_is_no_cursor(ok: Call, refused: Call, five: list[str]) -> None:
    ok("DELETE", f"/v1/invoices/{five[2]}")
    assert ids(ok("GET", "/v1/invoices")) == [five[4], five[3], five[1], five[0]]
    assert refused("GET", "/v1/invoices", {"starting_after": five[2]})[1] == "resource_missing"


def test_invoices_filter_by_customer_and_status(
    double: StripeDouble, ok: Call, draft: Call, billed: Call
) -> None:
    double.add_customer("cus_2")
    mine, theirs = draft(), draft(customer="cus_2")
    paid = billed(900, customer="cus_2")
    opened = billed(900, auto_advance=False)
    assert ids(ok("GET", "/v1/invoices", {"customer": "cus_2"})) == [paid["id"], theirs["id"]]
    assert ids(ok("GET", "/v1/invoices", {"status": "draft"})) == [theirs["id"], mine["id"]]
    assert ids(ok("GET", "/v1/invoices", {"status": "paid", "customer": "cus_2"})) == [paid["id"]]
    assert ids(ok("GET", "/v1/invoices", {"status": "open"})) == [opened["id"]]
    assert ids(ok("GET", "/v1/invoices", {"customer": "cus_none"})) == []
    one = ok("GET", "/v1/invoices", {"customer": "cus_2", "limit": 1})
    assert one["has_more"] is True
    rest = ok("GET", "/v1/invoices", {"customer": "cus_2", "starting_after": ids(one)[0]})
    assert ids(rest) == [theirs["id"]]


def test_invoices_filter_by_time(call_at: Call) -> None:
    start = datetime(2026, 11, 1, tzinfo=UTC)
    moments = [start]
    with StripeDouble(now=lambda: moments[-1]).running() as double:
        double.add_customer("cus_1")
        made = []
        for day in range(3):
            moments.append(start + timedelta(days=day))
            made.append(call_at(double, "POST", "/v1/invoices", {"customer": "cus_1"})[2])
        times = [each["created"] for each in made]
        assert times == [int(start.timestamp()) + day * DAY for day in range(3)]

        def created(**bounds: int) -> list[int]:
            page = call_at(double, "GET", "/v1/invoices", {"created": bounds})[2]
            return [times.index(each["created"]) for each in page["data"]]

        assert created(gte=times[1]) == [2, 1]
        assert created(gt=times[1]) == [2]
        assert created(lte=times[1]) == [1, 0]
        assert created(lt=times[1]) == [0]
        assert created(gte=times[1], lt=times[2]) == [1]
        exact = call_at(double, "GET", "/v1/invoices", {"created": times[1]})[2]
        assert ids(exact) == [made[1]["id"]]


def test_events_carry_the_object_as_it_was(ok: Call, draft: Call) -> None:
    invoice = draft(700)
    ok("POST", f"/v1/invoices/{invoice['id']}/finalize", {"auto_advance": True}, key="the-key")
    events = {each["type"]: each for each in ok("GET", "/v1/events")["data"]}
    assert events["invoice.created"]["data"]["object"]["total"] == 0
    assert events["invoice.updated"]["data"]["previous_attributes"] == {"total": 0}
    finalized = events["invoice.finalized"]
    assert finalized["data"]["object"]["status"] == "open"
    assert finalized["request"]["idempotency_key"] == "the-key"
    assert finalized["request"]["id"].startswith("req_")
    assert events["invoice.paid"]["data"]["object"]["status"] == "paid"
    assert ok("GET", f"/v1/events/{finalized['id']}") == finalized


def test_every_transition_makes_its_event(double: StripeDouble, ok: Call, draft: Call, billed: Call) -> None:
    ok("POST", "/v1/customers")
    ok("DELETE", f"/v1/invoices/{draft()['id']}")
    ok("POST", f"/v1/invoices/{billed(700, auto_advance=False)['id']}/void")
    written_off = billed(700, auto_advance=False)["id"]
    ok("POST", f"/v1/invoices/{written_off}/mark_uncollectible")
    ok("POST", f"/v1/invoices/{written_off}", {"metadata": {"a": "b"}})
    made = {each.type for each in double.events()}
    assert made == {
        "customer.created",
        "invoice.created",
        "invoice.deleted",
        "invoice.finalized",
        "invoice.marked_uncollectible",
        "invoice.updated",
        "invoice.voided",
    }


def test_events_filter_by_type_and_page(ok: Call, billed: Call) -> None:
    billed(700)
    billed(800)
    paid = ok("GET", "/v1/events", {"type": "invoice.paid"})
    assert [each["data"]["object"]["total"] for each in paid["data"]] == [800, 700]
    two = ok("GET", "/v1/events", {"types": ["invoice.paid", "invoice.created"], "limit": 3})
    assert two["has_more"] is True
    rest = ok(
        "GET", "/v1/events", {"types": ["invoice.paid", "invoice.created"], "starting_after": ids(two)[-1]}
    )
    assert len(rest["data"]) == 1
    assert len(ok("GET", "/v1/events", {"type": "invoice.*"})["data"]) == 10


def test_events_are_kept_for_thirty_days(double: StripeDouble, ok: Call, refused: Call, draft: Call) -> None:
    draft()
    event = ok("GET", "/v1/events")["data"][0]
    double.shift_clock(30 * DAY - 60)
    assert ids(ok("GET", "/v1/events")) == [event["id"]]
    double.shift_clock(120)
    assert ok("GET", "/v1/events")["data"] == []
    assert refused("GET", f"/v1/events/{event['id']}")[:2] == (404, "resource_missing")
