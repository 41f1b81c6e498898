"""The settings of alerts, and the command that tries the channels."""

import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from spell_billing.alerts.alert import body
from spell_billing.cli import main
from spell_billing.core.errors import SettingsError
from spell_billing.core.money import format_amounts
from spell_billing.settings.billing import Settings
from spell_billing.settings.notifications import NotificationSettings, split_urls
from spell_billing_tests.alerting.receivers import WebReceiver


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("", []),
        (" , ", []),
        ("json://a", ["json://a"]),
        ("json://a,json://b", ["json://a", "json://b"]),
        ("json://a json://b\n\tslack://x/y/z", ["json://a", "json://b", "slack://x/y/z"]),
        ("mailto://u:p@h?to=a@x,b@y, json://b,", ["mailto://u:p@h?to=a@x,b@y", "json://b"]),
    ],
)
def test_channels_stand_between_commas_or_spaces(text: str, urls: list[str]) -> None:
    assert split_urls(text) == urls
    settings = NotificationSettings({"ALERT_URLS": text})
    assert [url.get_secret_value() for url in settings.alert_urls] == urls
    assert "json" not in repr(settings)


def test_alerts_link_to_the_run_where_dagster_has_a_public_address(monkeypatch: pytest.MonkeyPatch) -> None:
    assert body("text", None, run_id="run-1") == "text"
    monkeypatch.setenv("DAGSTER_PUBLIC_URL", "https://dagster.example.com/billing/")
    assert body("text", run_id="run-1") == "text\nhttps://dagster.example.com/billing/runs/run-1"
    assert body("text") == "text"


@pytest.mark.parametrize(
    "text",
    ["dagster.example.com", "ftp://x", "https://", "https://u:secret@x", "https://x/?a=b", "http://x:99999"],
)
def test_a_public_address_that_is_none_is_refused_without_its_secret_and_the_alert_goes_out_all_the_same(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingsError, match="DAGSTER_PUBLIC_URL is not a web address") as raised:
        _ = NotificationSettings({"DAGSTER_PUBLIC_URL": text}).dagster_public_url
    assert "secret" not in str(raised.value)

    monkeypatch.setenv("DAGSTER_PUBLIC_URL", text)
    assert body("text", run_id="run-1").startswith("text\n(No link to the run: DAGSTER_PUBLIC_URL is not")


@pytest.mark.parametrize(("text", "hours"), [("", 6), ("1", 1), ("672", 672)])
def test_the_deadline_is_in_whole_hours(text: str, hours: int) -> None:
    assert Settings({"BILLING_DEADLINE_HOURS": text}).billing_deadline == timedelta(hours=hours)


@pytest.mark.parametrize("text", ["0", "673", "-1", "6.5", "six", "\u0666"])
def test_a_deadline_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"BILLING_DEADLINE_HOURS=.* is not a number of hours"):
        _ = Settings({"BILLING_DEADLINE_HOURS": text}).billing_deadline


def test_amounts_name_their_currencies() -> None:
    assert format_amounts({"usd": 123456}) == "$1,234.56"
    assert format_amounts({"usd": 100, "chf": 250, "jpy": 5}) == "2.50 CHF, ¥5 and $1.00"
    assert format_amounts({}) == "$0.00"
    assert format_amounts({"usd": 100, "chf": 250}) == "2.50 CHF and $1.00"


def test_alert_test_says_which_channels_took_it(monkeypatch: pytest.MonkeyPatch, web: WebReceiver) -> None:
    monkeypatch.setenv("ALERT_URLS", web.url())

    result = CliRunner().invoke(main, ["alert-test"])

    assert result.exit_code == 0, result.output
    assert result.output.startswith("JSON 127.0.0.1 #")
    assert result.output.endswith(": sent\n")
    assert web.titles == ["Test alert of Spell Platform billing"]


def test_alert_test_fails_when_a_channel_did_not_take_it(
    monkeypatch: pytest.MonkeyPatch, web: WebReceiver
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv(
            "ALERT_URLS", f"{web.url()} json://billing:hunter2hunter2@127.0.0.1:{taken.getsockname()[1]}"
        )
        result = CliRunner().invoke(main, ["alert-test"])

    assert result.exit_code == 1
    sent, failed = result.output.splitlines()
    assert sent.endswith(": sent")
    assert failed.startswith("JSON 127.0.0.1 #")
    assert not failed.endswith(": sent")
    assert "hunter2" not in result.output


def test_alert_test_without_channels_says_what_to_set() -> None:
    result = CliRunner().invoke(main, ["alert-test"])

    assert result.exit_code == 1
    assert "ALERT_URLS is not set" in result.output


def test_naming_the_command_does_not_load_apprise() -> None:
    code = (
        "import sys; from spell_billing.cli import main; import spell_billing.definitions\n"
        "sys.exit('apprise' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path.cwd()).returncode == 0
