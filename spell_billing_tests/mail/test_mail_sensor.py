"""The sensor `mail`: off until it is switched on, addresses from the platform's table, and a person told."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from spell_billing.alerts.channels import LOG_CHANNEL
from spell_billing.core.errors import SettingsError
from spell_billing.ledger.schema import outbox
from spell_billing.mail.settings import MailServer
from spell_billing.orchestration.resources import AlertResource, LedgerResource, UsageResource
from spell_billing.orchestration.sensors.exchange import mail
from spell_billing.settings.databases import DatabaseUrl


@pytest.fixture
def tick(
    url: DatabaseUrl, database_url: str, make_source_tables: Callable[..., Any], tmp_path: Path
) -> Callable[[], str]:
    """Give a function that evaluates a tick, beside accounts with and without an address."""
    source = make_source_tables(database_url)
    source.accounts(
        [
            {"user_id": "user-0001", "stripe_customer_id": "cus_1", "email": "user-0001@example.com"},
            {"user_id": "user-0002", "stripe_customer_id": "cus_2", "email": None},
        ]
    )
    assert url.setting == "DATABASE_URL"

    def evaluate() -> str:
        with dg.DagsterInstance.ephemeral() as instance:
            context = dg.build_sensor_context(
                instance=instance,
                resources={
                    "ledger": LedgerResource(database_url=database_url),
                    "usage": UsageResource(database_url=database_url, store_path=str(tmp_path)),
                    "alerts": AlertResource(urls=[]),
                },
            )
            said = mail(context)
            assert isinstance(said, dg.SkipReason)
            assert said.skip_message is not None
            return said.skip_message

    return evaluate


@pytest.fixture
def switch_on(monkeypatch: pytest.MonkeyPatch) -> Callable[[MailServer], None]:
    def switch(server: MailServer) -> None:
        monkeypatch.setenv("MAIL_URL", f"smtp://{server.host}:{server.port}")
        monkeypatch.setenv("MAIL_FROM", "Billing <billing@example.com>")

    return switch


def test_without_a_server_nothing_is_sent_and_the_tick_says_so(tick: Callable[[], str], office: Any) -> None:
    assert tick().startswith("MAIL_URL is not set")
    assert office.outbox() == {}


def test_a_server_without_a_sender_fails_the_tick_with_the_setting_s_name(
    tick: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAIL_URL", "smtp://localhost")

    with pytest.raises(SettingsError, match="MAIL_FROM is not set"):
        tick()


def test_users_are_mailed_at_the_address_of_their_account_as_it_is_now(
    tick: Callable[[], str], switch_on: Any, office: Any, mail_server: MailServer, receiver: Any
) -> None:
    switch_on(mail_server)
    assert tick() == "mail to users: 0 added; 0 sent"
    office.now = datetime.now(UTC)
    office.invoice("user-0001", "user-0002", "user-0003")

    said = tick()

    assert said == ("mail to users: 3 added; 1 sent; 2 given up (no_address: user-0002, user-0003)")
    assert receiver.recipients == ["user-0001@example.com"]
    assert tick() == "mail to users: 0 added; 0 sent"


def test_a_person_hears_once_of_a_server_that_stays_away(
    tick: Callable[[], str], switch_on: Any, office: Any, closed_port: Callable[[], MailServer]
) -> None:
    away = closed_port()
    switch_on(away)
    tick()
    office.now = datetime.now(UTC)
    office.invoice("user-0001")

    tick()
    assert _alerts(office) == []
    for _ in range(2):
        _wait(office, timedelta(hours=2))
        assert "the mail server cannot be used (ConnectionRefusedError" in tick()

    ((kind, channel, text),) = _alerts(office)
    assert (kind, channel) == ("mail_stuck", LOG_CHANNEL)
    assert f"127.0.0.1:{away.port}" in text


def _alerts(office: Any) -> list[tuple[str, str, str]]:
    with office.ledger.reading() as connection:
        rows = connection.exec_driver_sql(
            "SELECT kind, channel, payload FROM ledger_outbox WHERE channel <> 'mail'"
        )
        return [tuple(row) for row in rows]


def _wait(office: Any, time: timedelta) -> None:
    """Let the outbox believe that its mail has waited so long."""
    with office.ledger.writing() as connection:
        connection.execute(
            outbox.update()
            .where(outbox.c.channel == "mail")
            .values(created_at=office.now - time, next_try_at=office.now - time)
        )
