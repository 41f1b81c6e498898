"""An alert reaches every channel once; a channel that fails is named on the others and tried again."""

import json
import logging
import socket
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from spell_billing.alerts.alert import Alert
from spell_billing.alerts.channels import Alerts, Channel
from spell_billing.core.errors import AlertError
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.outbox import put
from spell_billing.ledger.schema import outbox
from spell_billing_tests.alerting.receivers import MailReceiver, WebReceiver

AlertsOn = Callable[..., Alerts]
ALERT = Alert(
    key="month_unbilled:2026-10:0",
    kind="month_unbilled",
    title="2026-10 is not billed",
    body="No draft was made.\nNext: spell-billing bill --month 2026-10",
    month="2026-10",
)


def sent(ledger: Ledger) -> list[tuple[Any, ...]]:
    columns = (outbox.c.key, outbox.c.channel, outbox.c.kind, outbox.c.month, outbox.c.payload)
    query = sa.select(*columns).where(outbox.c.sent_at.is_not(None)).order_by(outbox.c.sent_at)
    with ledger.reading() as connection:
        return [
            (key, channel, kind, month, "\n".join(json.loads(payload).values()))
            for key, channel, kind, month, payload in connection.execute(query)
        ]


def test_an_alert_comes_by_mail_and_to_webhooks_with_what_to_do_next(
    alerts_on: AlertsOn, web: WebReceiver, mail: MailReceiver, ledger: Ledger
) -> None:
    alerts_on(web.url("hook"), mail.url(), web.url("secrettoken0123456789abcd", schema="mmost")).send(ALERT)

    (plain, chat) = web.requests
    assert plain[0] == "/hook"
    assert (plain[2]["title"], plain[2]["message"]) == (ALERT.title, ALERT.body)
    assert chat[0] == "/hooks/secrettoken0123456789abcd"
    assert "2026-10 is not billed" in chat[2]["text"]
    assert "Next: spell-billing bill --month 2026-10" in chat[2]["text"]
    (letter,) = mail.mails
    assert letter["Subject"] == ALERT.title
    assert "oncall@example.com" in str(letter["To"])
    text = "".join(str(part.get_payload()) for part in letter.walk() if not part.is_multipart())
    assert "Next: spell-billing bill --month 2026-10" in text
    assert [(key, *about) for key, _, *about in sent(ledger)] == [
        (ALERT.key, ALERT.kind, ALERT.month, f"{ALERT.title}\n{ALERT.body}")
    ] * 3


def test_an_alert_goes_out_once_on_a_channel_however_often_it_is_sent(
    alerts_on: AlertsOn, web: WebReceiver, mail: MailReceiver
) -> None:
    for _ in range(3):
        alerts_on(web.url(), mail.url()).send(ALERT)

    assert (len(web.requests), len(mail.mails)) == (1, 1)


def test_the_order_of_the_channels_and_a_new_password_make_no_difference(
    alerts_on: AlertsOn, web: WebReceiver, other_web: WebReceiver
) -> None:
    first, second = web.url("a", login="billing:oldpassword@"), other_web.url("b")
    alerts_on(first, second).send(ALERT)

    alerts_on(second, first.replace("oldpassword", "newpassword")).send(ALERT)

    assert (len(web.requests), len(other_web.requests)) == (1, 1)


def test_a_channel_added_later_gets_what_is_still_sent(
    alerts_on: AlertsOn, web: WebReceiver, other_web: WebReceiver
) -> None:
    alerts_on(web.url()).send(ALERT)

    alerts_on(web.url(), other_web.url()).send(ALERT)

    assert (web.titles, other_web.titles) == ([ALERT.title], [ALERT.title])


def test_two_channels_that_look_the_same_without_their_secrets_are_two(
    alerts_on: AlertsOn, web: WebReceiver
) -> None:
    alerts = alerts_on(
        web.url("tokenAAAAAAAAAAAAAAAAAAAAAZ", schema="mmost"),
        web.url("tokenBBBBBBBBBBBBBBBBBBBBBZ", schema="mmost"),
    )

    alerts.send(ALERT)

    assert len({path for path, _, _ in web.requests}) == 2


def test_a_failing_channel_keeps_the_others_going_is_named_on_them_once_and_gets_its_alert_later(
    alerts_on: AlertsOn, web: WebReceiver, mail: MailReceiver
) -> None:
    mail.answer = "451 no room"
    for _ in range(3):
        with pytest.raises(AlertError) as raised:
            alerts_on(web.url(), mail.url()).send(ALERT)
    assert "E-Mail 127.0.0.1 #" in raised.value.message
    assert "alert-test" in raised.value.remedy
    (alert, outage) = web.titles
    assert alert == ALERT.title
    assert outage.startswith("Alerts do not reach E-Mail 127.0.0.1 #")

    mail.answer = "250 taken"
    alerts_on(web.url(), mail.url()).send(ALERT)

    assert [letter["Subject"] for letter in mail.mails] == [ALERT.title]
    assert len(web.requests) == 2


@pytest.mark.both_databases
def test_a_second_outage_is_reported_again(
    alerts_on: AlertsOn, web: WebReceiver, other_web: WebReceiver
) -> None:
    def send(number: int, status: int) -> None:
        other_web.status = status
        alert = Alert(f"key-{number}", "kind", f"alert {number}", "body")
        alerts = alerts_on(web.url(), other_web.url())
        if status == 200:
            alerts.send(alert)
        else:
            with pytest.raises(AlertError):
                alerts.send(alert)

    for number, status in enumerate((500, 500, 200, 500, 500)):
        send(number, status)

    assert [title.split(" #")[0] for title in web.titles] == [
        "alert 0",
        "Alerts do not reach JSON 127.0.0.1",
        "alert 1",
        "alert 2",
        "alert 3",
        "Alerts do not reach JSON 127.0.0.1",
        "alert 4",
    ]
    assert other_web.titles == ["alert 2"]


def test_when_nobody_answers_the_error_says_so_and_nothing_counts_as_sent(
    alerts_on: AlertsOn, ledger: Ledger
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(AlertError) as raised:
            alerts_on(f"json://127.0.0.1:{port}/a", f"json://127.0.0.1:{port}/b").send(ALERT)

    assert raised.value.message.count("JSON 127.0.0.1 #") == 2
    assert sent(ledger) == []


def test_a_channel_that_failed_twice_is_left_alone_for_the_rest_of_the_tick(
    alerts_on: AlertsOn, web: WebReceiver, other_web: WebReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    deliver = Channel.deliver

    def counted(self: Channel, title: str, body: str) -> str | None:
        tried.append(self.url.get_secret_value())
        return deliver(self, title, body)

    monkeypatch.setattr(Channel, "deliver", counted)
    other_web.status = 503
    alerts = alerts_on(web.url(), other_web.url())
    for number in range(5):
        with pytest.raises(AlertError):
            alerts.send(Alert(f"key-{number}", "kind", f"alert {number}", "body"))

    assert tried.count(other_web.url()) == 2
    assert [title for title in web.titles if title.startswith("alert ")] == [f"alert {n}" for n in range(5)]


def test_a_url_that_apprise_cannot_use_is_a_failing_channel_among_healthy_ones(
    alerts_on: AlertsOn, web: WebReceiver
) -> None:
    with pytest.raises(AlertError) as raised:
        alerts_on("slakc://verysecrettoken", web.url()).send(ALERT)

    assert "ALERT_URLS number 1 (slakc://)" in raised.value.message
    assert "verysecrettoken" not in str(raised.value)
    assert web.titles == [ALERT.title, "Alerts do not reach ALERT_URLS number 1 (slakc://)"]


def test_without_channels_an_alert_is_logged_once(
    alerts_on: AlertsOn, caplog: pytest.LogCaptureFixture, ledger: Ledger
) -> None:
    with caplog.at_level(logging.WARNING, logger="tick"):
        alerts_on().send(ALERT)
        alerts_on().send(ALERT)

    assert [record.getMessage() for record in caplog.records] == [f"{ALERT.title}\n{ALERT.body}"]
    assert [row[:2] for row in sent(ledger)] == [(ALERT.key, "log")]


def test_a_key_too_long_for_the_ledger_is_refused_where_it_is_made() -> None:
    with pytest.raises(ValueError, match="1 to 200 characters, not 201"):
        Alert("k" * 201, "kind", "title", "body")


def test_an_alert_keeps_its_lines_and_spells_out_what_acts_on_a_terminal() -> None:
    message = Alert("key", "kind", "user a\x1b[31m\nb", "users: \x1b[31m\nnext").on()
    assert message.payload == {"title": r"user a\x1b[31m\nb", "body": "users: \\x1b[31m\nnext"}


@pytest.mark.both_databases
def test_an_alert_stored_with_its_fact_goes_out_once_and_fails_nobody_elses_tick(
    alerts_on: AlertsOn, web: WebReceiver, ledger: Ledger
) -> None:
    with ledger.outbox.writer.connect() as connection:
        put(connection, [Alert("undone", ALERT.kind, "rolled back", "body").on()])
        connection.rollback()
    for _ in range(2):
        with ledger.writing() as connection:
            put(connection, [ALERT.on()])
    web.status = 500
    for _ in range(2):
        with pytest.raises(AlertError, match="2026-10 is not billed"):
            alerts_on(web.url()).send_all(kind=ALERT.kind)

    web.status = 200
    alerts_on(web.url()).send(Alert("key", "kind", "title", "body"))
    for _ in range(2):
        alerts_on(web.url()).send_all(kind=ALERT.kind)

    assert web.titles == ["title", ALERT.title]
