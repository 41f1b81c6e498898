"""Mail to users: each occurrence once, through failing servers, refusals and lost connections."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Event
from typing import Any

import pytest

from spell_billing.core.errors import MonthLockedError
from spell_billing.core.month import Month
from spell_billing.ledger.mails import GivenUp
from spell_billing.ledger.outbox import pause
from spell_billing.mail.settings import MailServer

USERS = ("user-0001", "user-0002", "user-0003")


def test_every_finalized_invoice_is_mailed_once(switched_on: Any, mail_server: Any, receiver: Any) -> None:
    switched_on.invoice(*USERS)

    first, second = switched_on.round(mail_server), switched_on.round(mail_server)

    assert (first.added, first.sent, second.added, second.sent) == (3, 3, 0, 0)
    assert receiver.recipients == [f"{user}@example.com" for user in USERS]
    assert all(row["sent_at"] and row["tries"] == 1 for row in switched_on.outbox().values())


def test_what_was_finalized_before_mail_was_switched_on_is_never_mailed(
    office: Any, mail_server: MailServer, receiver: Any
) -> None:
    office.invoice("user-0001")
    office.later(minutes=1)
    assert office.round(mail_server).added == 0
    office.later(minutes=1)
    office.invoice("user-0002", month=Month(2026, 11))

    office.round(mail_server)

    assert receiver.recipients == ["user-0002@example.com"]


def test_invoices_of_a_time_when_nobody_looked_are_mailed_when_somebody_does(
    switched_on: Any, mail_server: MailServer, receiver: Any
) -> None:
    switched_on.invoice("user-0001")
    switched_on.later(days=12)

    switched_on.round(mail_server)

    assert receiver.recipients == ["user-0001@example.com"]


def test_an_invoice_that_is_no_news_any_more_is_not_mailed(
    switched_on: Any, mail_server: MailServer, receiver: Any
) -> None:
    switched_on.invoice("user-0001")
    switched_on.later(days=31)

    assert switched_on.round(mail_server).added == 0
    assert receiver.taken == []


def test_each_failed_attempt_at_payment_is_mailed_once(
    switched_on: Any, mail_server: MailServer, receiver: Any
) -> None:
    switched_on.invoice("user-0001")
    switched_on.round(mail_server)
    for attempts in (1, 1, 2):
        switched_on.hear("user-0001", failed_attempts=attempts)
        switched_on.round(mail_server)
        switched_on.round(mail_server)

    assert [str(message["Subject"]) for message in receiver.taken] == [
        "Your invoice for October 2026: $12.34",
        *["We could not collect $12.34 for October 2026"] * 2,
    ]
    assert len({str(message["Message-ID"]) for message in receiver.taken}) == 3


def test_a_mail_that_would_say_what_is_no_longer_so_is_given_up(
    switched_on: Any, closed_port: Callable[[], MailServer], mail_server: MailServer, receiver: Any
) -> None:
    switched_on.invoice("user-0001", "user-0002")
    switched_on.hear("user-0001", failed_attempts=1)
    switched_on.hear("user-0002", failed_attempts=1)
    switched_on.round(closed_port())
    switched_on.hear("user-0001", status="paid", failed_attempts=1, attempts=2)
    switched_on.hear("user-0002", failed_attempts=2)
    switched_on.later(hours=3)

    done = switched_on.round(mail_server)

    assert done.given_up == {GivenUp.OUTDATED: ["user-0001", "user-0002"]}
    assert sorted(str(message["Subject"])[:20] for message in receiver.taken) == [
        "We could not collect",
        "Your invoice for Oct",
        "Your invoice for Oct",
    ]


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (None, "no_address"),
        ("user-0001@example.com\r\nBcc: other@example.com", "bad_address"),
        ("user-0001@example.com, other@example.com", "bad_address"),
        ("not an address", "bad_address"),
    ],
)
def test_a_user_without_a_usable_address_is_named_and_holds_nobody_up(
    switched_on: Any, mail_server: MailServer, receiver: Any, address: str | None, reason: str
) -> None:
    switched_on.addresses["user-0001"] = address
    switched_on.invoice(*USERS)

    done = switched_on.round(mail_server)

    assert receiver.recipients == ["user-0002@example.com", "user-0003@example.com"]
    row = switched_on.outbox()["finalized:in_user-0001_2026-10"]
    assert (row["error"], row["sent_at"]) == (reason, None)
    assert row["given_up_at"] is not None
    assert f"1 given up ({reason}: user-0001)" in str(done)


def test_a_server_that_is_away_for_days_loses_no_mail_and_is_asked_ever_more_rarely(
    switched_on: Any, closed_port: Callable[[], MailServer], mail_server: MailServer, receiver: Any
) -> None:
    away = closed_port()
    switched_on.invoice(*USERS)
    tried = 0
    for _ in range(3 * 24 * 12):
        tried += switched_on.round(away).trouble is not None
        switched_on.later(minutes=5)
    tries = {row["tries"] for row in switched_on.outbox().values()}
    switched_on.later(hours=2)

    switched_on.round(mail_server)

    assert tries == {tried}
    assert 36 <= tried <= 48
    assert sorted(receiver.recipients) == [f"{user}@example.com" for user in USERS]


def test_pauses_grow_to_two_hours() -> None:
    assert [pause(tries) for tries in (1, 2, 3, 7, 8, 9, 500)] == [
        *(timedelta(minutes=minutes) for minutes in (1, 2, 4, 64)),
        *[timedelta(hours=2)] * 3,
    ]


def test_a_recipient_refused_for_good_is_given_up_alone(
    switched_on: Any, mail_server: MailServer, receiver: Any
) -> None:
    receiver.answers_to_address["user-0002@example.com"] = "550 5.1.1 <user-0002@example.com> is unknown here"
    switched_on.invoice(*USERS)

    done = switched_on.round(mail_server)
    switched_on.later(days=1)
    switched_on.round(mail_server)

    assert receiver.recipients == ["user-0001@example.com", "user-0003@example.com"]
    assert (done.sent, done.given_up) == (2, {GivenUp.REFUSED: ["user-0002"]})
    row = switched_on.outbox()["finalized:in_user-0002_2026-10"]
    assert row["error"] == "refused: 550 5.1.1 <(address)> is unknown here"


@pytest.mark.both_databases
def test_a_mail_that_the_server_refuses_for_good_is_given_up_alone(
    switched_on: Any, mail_server: MailServer, receiver: Any
) -> None:
    receiver.answers_to_data = ["250 OK", "554 5.6.0 no such content", "250 OK"]
    switched_on.invoice(*USERS)

    done = switched_on.round(mail_server)

    assert (done.sent, done.given_up) == (2, {GivenUp.REFUSED: ["user-0002"]})


@pytest.mark.both_databases
@pytest.mark.parametrize(
    "answer", ["450 4.2.0 come back later", "554 5.7.1 Relay access denied", "550 relay not permitted"]
)
def test_a_recipient_refused_for_now_or_by_policy_is_tried_again_after_a_pause(
    switched_on: Any, mail_server: MailServer, receiver: Any, answer: str
) -> None:
    receiver.answers_to_address["user-0001@example.com"] = answer
    switched_on.invoice(*USERS)

    first, at_once = switched_on.round(mail_server), switched_on.round(mail_server)
    receiver.answers_to_address.clear()
    switched_on.later(minutes=1)
    after = switched_on.round(mail_server)

    assert (first.sent, first.delayed) == (2, 1)
    assert (at_once.sent, at_once.delayed) == (0, 0)
    assert (after.sent, after.delayed) == (1, 0)
    assert switched_on.outbox()["finalized:in_user-0001_2026-10"]["tries"] == 2


def test_a_connection_lost_in_the_middle_loses_no_mail_and_repeats_at_most_one(
    switched_on: Any, mail_server: MailServer, receiver: Any
) -> None:
    receiver.drop_after_data = 1
    switched_on.invoice(*USERS)

    broken = switched_on.round(mail_server)
    switched_on.round(mail_server)
    switched_on.later(minutes=1)
    switched_on.round(mail_server)

    assert broken.trouble is not None
    # It had taken the first, and the answer was lost: the second copy is known by its Message-ID.
    assert sorted(receiver.recipients) == [
        f"{USERS[0]}@example.com",
        *(f"{user}@example.com" for user in USERS),
    ]
    assert len({str(message["Message-ID"]) for message in receiver.taken}) == 3
    assert all(row["sent_at"] for row in switched_on.outbox().values())


def test_a_crash_between_sending_and_recording_repeats_that_mail_with_its_message_id(
    switched_on: Any, mail_server: MailServer, receiver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    switched_on.invoice(*USERS)
    with monkeypatch.context() as patch:
        patch.setattr("spell_billing.mail.delivery.outbox.mark_sent", killed)
        with pytest.raises(Killed):
            switched_on.round(mail_server)

    switched_on.round(mail_server)

    assert receiver.recipients == [f"{user}@example.com" for user in (USERS[0], *USERS)]
    assert receiver.taken[0]["Message-ID"] == receiver.taken[1]["Message-ID"]


def test_a_round_is_bounded_and_the_next_goes_on(
    switched_on: Any, mail_server: MailServer, receiver: Any
) -> None:
    switched_on.invoice(*USERS)

    sent = [switched_on.round(mail_server, limit=2).sent for _ in range(3)]
    nothing = switched_on.round(mail_server, seconds=0).sent

    assert (sent, nothing) == ([2, 1, 0], 0)
    assert receiver.recipients == [f"{user}@example.com" for user in USERS]


def test_a_round_uses_one_connection_and_none_when_nothing_is_due(
    switched_on: Any, mail_server: MailServer, receiver: Any
) -> None:
    switched_on.round(mail_server)
    assert receiver.sessions == 0
    switched_on.invoice(*USERS)

    switched_on.round(mail_server)

    assert receiver.sessions == 1


@pytest.mark.both_databases
def test_two_processes_never_send_at_once(switched_on: Any, mail_server: MailServer, receiver: Any) -> None:
    switched_on.invoice(*USERS)
    asked, go_on = Event(), Event()
    slow = switched_on.delivery(mail_server)
    addresses = slow.addresses

    def slowly(users: Any) -> Any:
        asked.set()
        assert go_on.wait(20)
        return addresses(users)

    slow.addresses = slowly
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(slow.round)
        assert asked.wait(20)
        with pytest.raises(MonthLockedError):
            switched_on.round(mail_server)
        go_on.set()

        assert first.result(20).sent == 3
    assert len(receiver.taken) == 3


def test_the_outbox_holds_no_address(switched_on: Any, mail_server: MailServer) -> None:
    switched_on.invoice(*USERS)
    switched_on.hear("user-0001", failed_attempts=1)

    switched_on.round(mail_server)

    assert "example.com" not in str(switched_on.outbox())
