"""The sensor `events_out`: marks what is overdue, sends where URLs are set, and alerts operators."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from spell_billing.core.errors import SettingsError
from spell_billing.orchestration.resources import AlertResource, LedgerResource
from spell_billing.orchestration.sensors.exchange import events_out
from spell_billing.settings.notifications import NotificationSettings
from spell_billing_tests.alerting.receivers import WebReceiver
from spell_billing_tests.events_out.world import SECRET, Office, Platform


@pytest.fixture
def tick(database_url: str) -> Callable[..., str]:
    """Give a function that evaluates a tick, with channels for alerts."""

    def evaluate(*alert_urls: str) -> str:
        with dg.DagsterInstance.ephemeral() as instance:
            context = dg.build_sensor_context(
                instance=instance,
                resources={
                    "ledger": LedgerResource(database_url=database_url),
                    "alerts": AlertResource(urls=list(alert_urls)),
                },
            )
            said = events_out(context)
            assert isinstance(said, dg.SkipReason)
            assert said.skip_message is not None
            return said.skip_message

    return evaluate


@pytest.fixture
def switch_on(monkeypatch: pytest.MonkeyPatch) -> Callable[[Platform], None]:
    def switch(platform: Platform) -> None:
        monkeypatch.setenv("EVENT_URLS", platform.url)
        monkeypatch.setenv("EVENT_SECRET", SECRET.get_secret_value())

    return switch


def test_without_urls_overdue_bills_are_marked_for_those_who_poll(
    tick: Callable[..., str], office: Office
) -> None:
    office.now = datetime.now(UTC) - timedelta(days=15)
    office.invoice("anna")

    assert tick().startswith("bills that became overdue: 1. EVENT_URLS is not set")
    assert tick().startswith("EVENT_URLS is not set")
    assert office.types()[-1] == ("anna", "user.overdue")
    assert office.outbox() == []


def test_with_urls_it_sends(
    tick: Callable[..., str], office: Office, platform: Platform, switch_on: Callable[[Platform], None]
) -> None:
    switch_on(platform)
    assert tick().endswith("0 added, 0 taken")
    office.now = datetime.now(UTC)
    office.invoice("anna")

    assert tick().endswith("1 added, 1 taken")
    assert platform.told == [("anna", "invoice.finalized")]


def test_an_alert_on_an_outage_goes_out_on_every_channel_once(
    tick: Callable[..., str], office: Office, platform: Platform, switch_on: Callable[[Platform], None]
) -> None:
    switch_on(platform)
    office.now = datetime.now(UTC) - timedelta(hours=2)
    office.round(platform.url)
    office.invoice("anna")
    platform.status = 500
    office.round(platform.url)

    with WebReceiver().running() as operators:
        for _ in range(2):
            tick(operators.url("a"))
        assert operators.titles == ["Events do not reach the platform"]
        (text,) = operators.texts

    assert "127.0.0.1 #" in text
    assert "t0p-secret" not in text


def test_urls_without_a_secret_fail_the_tick_with_the_setting_s_name(
    tick: Callable[..., str], platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENT_URLS", platform.url)

    with pytest.raises(SettingsError, match="EVENT_SECRET is not set"):
        tick()


def test_several_urls_are_read_each_once() -> None:
    urls = "https://a.example.com/x?y=1,2, http://localhost:8000/b,https://a.example.com/x?y=1,2"

    found = NotificationSettings({"EVENT_URLS": urls}).event_urls

    assert [url.get_secret_value() for url in found] == [
        "https://a.example.com/x?y=1,2",
        "http://localhost:8000/b",
    ]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://platform.example.com/x", "unencrypted"),
        ("ftp://platform.example.com/x", "unencrypted"),
        ("https://user:hunter2@platform.example.com/x", "not a web address.*no login"),
        ("https:///x", "not a web address"),
        ("platform.example.com", "not a web address"),
        ("https://platform.example.com:port/x", "not a web address"),
    ],
)
def test_a_wrong_url_is_refused_and_not_repeated(url: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as refused:
        _ = NotificationSettings({"EVENT_URLS": url}).event_urls

    assert "EVENT_URLS" in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("days", ["0", "366", "-1", "two", "1.5", "\N{FULLWIDTH DIGIT ONE}"])
def test_overdue_days_are_a_number_of_days(days: str) -> None:
    with pytest.raises(SettingsError, match="OVERDUE_DAYS"):
        _ = NotificationSettings({"OVERDUE_DAYS": days}).overdue_after


def test_a_short_secret_is_refused_and_not_repeated() -> None:
    with pytest.raises(SettingsError, match="EVENT_SECRET is too short") as refused:
        _ = NotificationSettings({"EVENT_SECRET": "hunter2"}).event_secret

    assert "hunter2" not in str(refused.value)
