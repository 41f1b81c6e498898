"""`POST /stripe/webhook`: only what Stripe signed in the last minutes, each event once, handled at once."""

import asyncio
import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import sqlalchemy as sa
import stripe

from spell_billing.core.outcomes import State
from spell_billing.ledger.schema import events
from spell_billing.ledger.stripe_account import StripeAccount, record_account
from spell_billing.payments.handler import handle_waiting
from spell_billing.stripe_double.render import to_json
from spell_billing_tests.proof.small_platform import MARCH, SmallPlatform
from spell_billing_tests.web.house import WEBHOOK_SECRET, Answer, House, house

PATH = "/stripe/webhook"
OTHER_SECRET = "whsec_of_another_endpoint"


def signature(at: House, body: str, *, secret: str = WEBHOOK_SECRET, seconds: int = 0) -> str:
    moment = int(at.clock().timestamp()) + seconds
    return str(stripe.WebhookSignature.generate_signature_header(body, secret, moment))


def send(at: House, event: object, **how: Any) -> Answer:
    body = event if isinstance(event, str) else json.dumps(event)
    return at.ask("POST", PATH, body, stripe_signature=signature(at, body, **how))


def event(number: int = 1, kind: str = "customer.created", **content: Any) -> dict[str, Any]:
    return {
        "id": f"evt_{number}",
        "object": "event",
        "type": kind,
        "created": 1_743_670_000,
        "data": {"object": {"id": "cus_1", "object": "customer", **content}},
    }


def inbox(at: House) -> list[tuple[str, str | None, str]]:
    with at.ledger.reading() as connection:
        rows = connection.execute(sa.select(events.c.event_id, events.c.outcome, events.c.way))
        return [(row[0], row[1], row[2]) for row in rows]


def test_a_payment_reaches_the_bill_without_waiting_for_the_sensor(
    platform: SmallPlatform, platform_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.accounts("user-0001", "user-0002")
    platform.double.add_customer("cus_user-0002", card="declined")
    platform.calls(MARCH, ("user-0001", 1000), ("user-0002", 700))
    platform.bill(MARCH)
    platform.double.shift_clock(2 * 86_400)
    platform.double.advance()
    happened = [to_json(each) for each in platform.double.events()]
    may_begin = Event()

    async def held(*arguments: Any) -> Any:
        await asyncio.to_thread(may_begin.wait, 60)
        return await handle_waiting(*arguments)

    monkeypatch.setattr("spell_billing.web.webhook.handle_waiting", held)
    answers = [send(platform_house, each) for each in happened]
    assert all(outcome is None for _, outcome, _ in inbox(platform_house)), "an answer waited"
    may_begin.set()
    for _ in answers:
        platform_house.lines.wait_for(path=PATH, status=200)

    assert {answer.status for answer in answers} == {200}
    assert all(answer.json == {"received": True, "new": True, "ignored": False} for answer in answers)
    again = send(platform_house, happened[0])
    assert again.json["new"] is False
    platform_house.lines.wait_for(path=PATH, status=200, who="stripe")
    until_handled(platform_house)
    assert platform.bill_of(MARCH, "user-0001").state is State.PAID
    assert platform.bill_of(MARCH, "user-0002").state is State.PAYMENT_FAILED
    kept = inbox(platform_house)
    assert len(kept) == len({each["id"] for each in happened})
    assert {way for _, _, way in kept} == {"webhook"}


def until_handled(at: House) -> None:
    deadline = time.monotonic() + 120
    while any(outcome is None for _, outcome, _ in inbox(at)):
        assert time.monotonic() < deadline, inbox(at)
        time.sleep(0.02)


@pytest.mark.both_databases
def test_one_event_sent_many_times_at_once_is_new_once(platform_house: House) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: send(platform_house, event()), range(16)))

    assert {answer.status for answer in answers} == {200}
    assert sum(answer.json["new"] for answer in answers) == 1
    assert len(inbox(platform_house)) == 1


def test_events_of_the_mode_that_the_ledger_does_not_bill_are_left_out(platform_house: House) -> None:
    assert send(platform_house, {**event(1), "livemode": True}).json["new"]
    with platform_house.ledger.writing() as connection:
        record_account(connection, StripeAccount("test", None), datetime.now(UTC))

    other = send(platform_house, {**event(2), "livemode": True})
    assert (other.status, other.json) == (200, {"received": True, "new": False, "ignored": True})
    assert send(platform_house, {**event(3), "livemode": False}).json["new"]
    assert [event_id for event_id, _, _ in inbox(platform_house)] == ["evt_1", "evt_3"]


@pytest.mark.parametrize(
    "how",
    [
        {"secret": OTHER_SECRET},
        {"secret": ""},
        {"seconds": -301},
        {"seconds": 301},
        {"seconds": -(10**9)},
        {"seconds": 10**12},
    ],
)
def test_what_stripe_did_not_sign_just_now_is_refused(shared_house: House, how: dict[str, Any]) -> None:
    answer = send(shared_house, event(2), **how)

    assert answer.status == 400
    assert answer.json["error"]["code"] == "wrong_signature"
    assert ("evt_2", None, "webhook") not in inbox(shared_house)
    assert shared_house.lines.wait_for(path=PATH, status=400)["action"] == "wrong signature"


@pytest.mark.parametrize("seconds", [-300, 300])
def test_a_clock_that_is_five_minutes_off_is_borne(shared_house: House, seconds: int) -> None:
    assert send(shared_house, event(3 if seconds > 0 else 4), seconds=seconds).status == 200


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "t=,v1=",
        "v1=abc",
        "t=x,v1=abc",
        "t=1743672600",
        "t=-1,v1=a",
        "t=²,v1=a",
        "=",
        ",,,",
        "t=1=1,v1=a",
    ],
)
def test_a_malformed_signature_is_refused(shared_house: House, header: str | None) -> None:
    headers = {} if header is None else {"stripe_signature": header}

    assert shared_house.ask("POST", PATH, json.dumps(event()), **headers).status == 400


def test_a_changed_body_is_refused(shared_house: House) -> None:
    body = json.dumps(event(5))
    header = signature(shared_house, body)

    assert (
        shared_house.ask("POST", PATH, body.replace("cus_1", "cus_2"), stripe_signature=header).status == 400
    )
    assert shared_house.ask("POST", PATH, b"\xff" + body.encode(), stripe_signature=header).status == 400


def test_two_timestamps_do_not_smuggle_an_old_event_in(shared_house: House) -> None:
    body = json.dumps(event(6))
    old = signature(shared_house, body, seconds=-10_000)
    now = int(shared_house.clock().timestamp())

    for header in (f"t={now},{old}", f"{old},t={now}"):
        assert shared_house.ask("POST", PATH, body, stripe_signature=header).status == 400


def test_either_secret_opens_while_one_replaces_the_other(sqlite_url: str, tmp_path: Path) -> None:
    both = f"{WEBHOOK_SECRET},{OTHER_SECRET}"
    with house(sqlite_url, tmp_path / "house", STRIPE_WEBHOOK_SECRET=both) as opened:
        assert send(opened, event(1)).status == 200
        assert send(opened, event(2), secret=OTHER_SECRET).status == 200
        assert send(opened, event(3), secret="whsec_of_nobody_known").status == 400
        assert {event_id for event_id, _, _ in inbox(opened)} == {"evt_1", "evt_2"}


def test_without_a_secret_no_event_is_taken(sqlite_url: str, tmp_path: Path) -> None:
    with house(sqlite_url, tmp_path / "house", STRIPE_WEBHOOK_SECRET="") as opened:
        answer = send(opened, event(1))

        assert answer.status == 503
        assert "STRIPE_WEBHOOK_SECRET is not set" in answer.json["error"]["message"]
        assert inbox(opened) == []


@pytest.mark.parametrize(
    "body",
    [
        "[]",
        "null",
        "not json",
        '{"id": "evt_7"}',
        '{"id": "evt_7", "object": "v2.core.event", "type": "v1.billing", "created": "2025-04-03T00:00:00Z"}',
        '{"id": "evt_7", "type": "x", "created": 1, "data": {"object": null}}',
        '{"id": "evt_7", "type": "x", "created": true, "data": {"object": {}}}',
        '{"id": "evt_7", "type": "x", "created": 99999999999999, "data": {"object": {}}}',
        '{"id": "evt_\\u0000", "type": "x", "created": 1, "data": {"object": {}}}',
    ],
)
def test_a_signed_body_of_another_kind_is_accepted_and_ignored(shared_house: House, body: str) -> None:
    answer = send(shared_house, body)

    assert answer.status == 200
    assert answer.json == {"received": True, "new": False, "ignored": True}


def test_a_type_that_nobody_knows_is_taken_and_ignored(shared_house: House) -> None:
    assert send(shared_house, event(8, kind="invoice.invented_tomorrow")).status == 200
    assert send(shared_house, event(9, kind="radar.early_fraud_warning.created")).status == 200

    until_handled(shared_house)
    outcomes = {event_id: outcome for event_id, outcome, _ in inbox(shared_house)}
    assert outcomes["evt_8"] == outcomes["evt_9"] == "ignored_type"


def test_only_post_is_taken(shared_house: House) -> None:
    assert shared_house.ask("GET", PATH).status == 405
    assert shared_house.ask("PUT", PATH, "{}").status == 405


def test_when_the_ledger_does_not_answer_stripe_is_told_to_come_again(
    sqlite_url: str, tmp_path: Path
) -> None:
    with house(sqlite_url, tmp_path / "house") as opened:
        with opened.ledger.writing() as connection:
            connection.execute(sa.text("DROP TABLE ledger_events"))
        answer = send(opened, event(1))

    assert answer.status == 503
    assert answer.json["error"]["code"] == "not_available"
    assert "ledger_events" not in answer.text


def test_what_an_event_holds_is_never_logged(shared_house: House, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        send(shared_house, event(10, email="person-of-this-test@example.com"))
        send(shared_house, event(11, email="person-of-this-test@example.com"), secret=OTHER_SECRET)
        shared_house.lines.wait_for(path=PATH, status=400)

    assert "person-of-this-test" not in caplog.text
    assert WEBHOOK_SECRET not in caplog.text
