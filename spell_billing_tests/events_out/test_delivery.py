"""Events on their way: signed, each at least once, in order per user, and nobody waits for a dead URL."""

import json
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stripe
from pydantic import SecretStr

from spell_billing.core.outcomes import State
from spell_billing.events_out.delivery import EventDelivery, Receiver
from spell_billing_tests.events_out.world import OCTOBER, SECRET, Office, Platform

CERTIFICATE = Path(__file__).parents[1] / "mail" / "localhost.pem"
USERS = [f"user-{number:02}" for number in range(25)]


@pytest.fixture
def closed_url() -> str:
    with Platform().running() as gone:
        return gone.url


@pytest.mark.both_databases
def test_a_url_is_told_what_happens_from_when_it_is_set_each_change_once(
    office: Office, platform: Platform
) -> None:
    office.invoice("early", month=OCTOBER.previous())
    office.round(platform.url)
    office.invoice("anna", "bert")
    office.move("anna", State.PAYMENT_FAILED)
    office.move("anna", State.PAID)

    done = office.round(platform.url)
    office.round(platform.url)

    assert [(sent.added, sent.taken) for sent in done.sent.values()] == [(4, 4)]
    assert [kind for user, kind in platform.told if user == "anna"] == [
        "invoice.finalized",
        "invoice.payment_failed",
        "invoice.paid",
    ]
    assert max(platform.told) == ("bert", "invoice.finalized")
    assert [json.loads(body) for body in platform.bodies if b"bert" in body] == [
        event.as_json() for event in office.feed() if event.user_id == "bert"
    ]


def test_the_signature_is_checked_by_stripe_s_own_code(office: Office, platform: Platform) -> None:
    office.round(platform.url)
    office.invoice("anna")
    office.round(platform.url)

    header, body = platform.headers[0]["Spell-Signature"], platform.bodies[0].decode()

    assert header.startswith(f"t={int(office.now.timestamp())},v1=")
    verify: Callable[..., Any] = stripe.WebhookSignature.verify_header
    assert verify(body, header, SECRET.get_secret_value()) is True
    with pytest.raises(stripe.SignatureVerificationError):
        verify(body.replace("1234", "1235"), header, SECRET.get_secret_value())


@pytest.mark.both_databases
def test_a_user_s_events_wait_for_the_first_of_them_and_no_other_user_s_do(
    office: Office, platform: Platform
) -> None:
    office.round(platform.url)
    office.invoice("anna", "bert")
    platform.status_of_user["anna"] = 500
    office.round(platform.url)
    office.move("anna", State.PAID)
    office.move("bert", State.PAID)
    office.round(platform.url)
    assert [kind for user, kind in platform.told if user == "bert"] == ["invoice.finalized", "invoice.paid"]
    assert [kind for user, kind in platform.told if user == "anna"] == ["invoice.finalized"]

    platform.status_of_user.clear()
    office.later(minutes=2)
    office.round(platform.url)

    assert [kind for user, kind in platform.told if user == "anna"] == [
        "invoice.finalized",
        "invoice.finalized",
        "invoice.paid",
    ]


def test_a_url_that_hangs_and_one_that_is_gone_hold_up_no_other(
    office: Office, platform: Platform, other_platform: Platform, closed_url: str
) -> None:
    urls = (closed_url, other_platform.url, platform.url)
    other_platform.seconds = 1.5
    office.round(*urls)
    office.invoice(*USERS)

    done = office.round(*urls, timeout_seconds=0.3)

    gone, hangs, well = done.sent.values()
    assert (well.taken, well.problem) == (len(USERS), None)
    assert (gone.taken, gone.problem) == (0, "it could not be reached (ClientConnectorError)")
    assert (hangs.taken, hangs.problem) == (0, "it did not answer in time")
    # What was not tried keeps its place: a dead URL costs a few requests in a tick.
    assert (gone.delayed, hangs.delayed) == (10, 10)


@pytest.mark.parametrize("status", [302, 400, 404, 429, 500, 503])
def test_any_answer_but_success_is_tried_again_and_a_redirect_is_not_followed(
    office: Office, platform: Platform, status: int
) -> None:
    office.round(platform.url)
    office.invoice("anna")
    platform.status = status

    said = str(office.round(platform.url))
    office.round(platform.url)

    assert said.endswith(
        f"#{fingerprint(platform)}: 1 added, 0 taken, 1 delayed (it answered with status {status})"
    )
    assert len(platform.bodies) == 1
    platform.status = 204
    office.later(minutes=1)
    office.round(platform.url)
    assert len(set(platform.bodies)) == 1
    assert [row["tries"] for row in office.outbox()] == [2]


def test_a_crash_between_answer_and_record_sends_the_same_event_again(
    office: Office, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.round(platform.url)
    office.invoice("anna")

    with monkeypatch.context() as patched:
        patched.setattr(EventDelivery, "_record", _crash)
        with pytest.raises(RuntimeError):
            office.round(platform.url)
    office.round(platform.url)

    assert len(platform.bodies) == 2
    assert len(set(platform.bodies)) == 1


@pytest.mark.both_databases
def test_after_three_days_events_are_given_up_and_operators_are_alerted_once_per_outage(
    office: Office, platform: Platform
) -> None:
    office.round(platform.url)
    platform.status = 503
    office.invoice(*USERS)
    office.round(platform.url)
    assert office.alerts() == []
    office.later(hours=1)
    for _ in range(4):
        office.round(platform.url)
    assert office.alerts() == ["Events do not reach the platform"]
    for _ in range(40):
        office.later(hours=2)
        for _ in range(3):
            office.round(platform.url)
    lost = [row for row in office.outbox() if row["given_up_at"]]
    assert len(lost) == len(USERS)
    assert office.alerts() == ["Events do not reach the platform", "Events for the platform are given up"]

    platform.status = 200
    for user in USERS[:3]:
        office.move(user, State.PAID)
    done = office.round(platform.url)
    assert [sent.taken for sent in done.sent.values()] == [3]
    platform.status = 503
    office.move(USERS[0], State.PAYMENT_FAILED)
    for _ in range(2):
        office.round(platform.url)
        office.later(hours=2)
    assert office.alerts().count("Events do not reach the platform") == 2


def test_no_secret_stands_in_the_outbox_or_in_what_is_said(
    office: Office, platform: Platform, closed_url: str
) -> None:
    office.round(platform.url, closed_url)
    office.invoice("anna")
    said = str(office.round(platform.url, closed_url))
    office.later(hours=2)
    said += str(office.round(platform.url, closed_url))

    kept = f"{office.outbox()}{said}"

    assert office.alerts()
    assert "t0p-secret" not in kept
    assert SECRET.get_secret_value() not in kept
    assert {row["channel"][:6] for row in office.outbox()} == {"event:", "alerts"}


def test_a_proxy_of_the_environment_is_not_used_towards_this_machine(
    office: Office, platform: Platform, closed_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, closed_url)
    office.round(platform.url)
    office.invoice("anna")

    office.round(platform.url)

    assert platform.told == [("anna", "invoice.finalized")]


def test_a_receiver_with_a_certificate_that_nobody_vouches_for_is_told_nothing(
    office: Office, platform: Platform
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    with Platform(tls=context).running() as encrypted:
        url = f"https://localhost:{encrypted.port}/billing"
        office.round(url)
        office.invoice("anna")

        (sent,) = office.round(url).sent.values()

    assert (sent.taken, sent.problem) == (0, "it could not be reached (ClientConnectorCertificateError)")
    assert encrypted.told == platform.told == []


def test_a_url_that_is_put_back_goes_on_where_it_was(office: Office, platform: Platform) -> None:
    office.round(platform.url)
    office.invoice("anna")
    office.round()

    office.round(platform.url)

    assert platform.told == [("anna", "invoice.finalized")]


def test_more_than_a_step_can_take_comes_with_the_next_ones(
    office: Office, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spell_billing.events_out.delivery.EVENTS_AT_ONCE", 4)
    office.round(platform.url)
    office.invoice(*USERS[:10])

    taken = [sum(sent.taken for sent in office.round(platform.url).sent.values()) for _ in range(4)]

    assert taken == [4, 4, 2, 0]


def test_no_further_request_begins_when_the_time_is_over(office: Office, platform: Platform) -> None:
    office.round(platform.url)
    office.invoice("anna")

    assert not office.round(platform.url, seconds=0).sent.popitem()[1].taken
    assert platform.told == []


def fingerprint(platform: Platform) -> str:
    return str(Receiver(SecretStr(platform.url))).partition("#")[2]


def _crash(*_: object) -> None:
    raise RuntimeError("killed")
