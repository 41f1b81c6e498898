"""A ledger of before there was one outbox: what went out is never sent again, and what waited goes out."""

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from spell_billing.alerts.channels import Alerts, open_channels
from spell_billing.core.month import Month
from spell_billing.ledger.column_types import UtcDateTime
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.migrate import migrate
from spell_billing.ledger.outbox import MAIL, due
from spell_billing.ledger.schema import outbox
from spell_billing.ledger.unpaid import failures_not_alerted
from spell_billing.ledger.waiting_users import forget_changed, not_alerted
from spell_billing.settings.databases import DatabaseUrl, create_engine_for
from spell_billing_tests.alerting.receivers import WebReceiver
from spell_billing_tests.ledger.earlier_ledgers import make_earlier

MARCH = Month(2025, 3)
AT = datetime(2025, 4, 1, 0, 5, tzinfo=UTC)
TIMES = frozenset(
    {"created_at", "updated_at", "finalized_at", "as_of", "sent_at", "reported_at", "next_try_at"}
    | {"moved_at", "given_up_at", "drafted_at", "billing_started_at"}
)
WAITS = {"key": "payment_failed:in_2:2", "kind": "payment_failed", "title": "in_2 failed", "body": "again"}
SUMMARY = {"key": "payment_failed:2:abc", "kind": "payment_failed", "title": "2 failed", "body": "both"}


@pytest.fixture
def engine(url: DatabaseUrl) -> Iterator[sa.Engine]:
    """Give a ledger at revision 0005."""
    opened = create_engine_for(url)
    with opened.begin() as connection:
        make_earlier(connection, "0005")
    yield opened
    opened.dispose()


def insert(connection: sa.Connection, table: str, **values: Any) -> None:
    columns = [sa.column(name, UtcDateTime() if name in TIMES else None) for name in values]
    connection.execute(sa.table(table, *columns).insert().values(values))


def old_bill(connection: sa.Connection, number: int, state: str, reason: str | None = None) -> None:
    texts = ("description", "lines", "lines_hash", "run_id")
    cents = (
        "usage_cents",
        "total_cents",
        "included_cents",
        "covered_cents",
        "late_cents",
        "unbilled_usage_cents",
    )
    others = ("calls", "credit_applied_cents", "carried_cents", "late_lines", "unbilled_calls")
    insert(
        connection,
        "ledger_invoices",
        **dict.fromkeys(texts, ""),
        **dict.fromkeys((*cents, *others), 0),
        id=number,
        month="2025-03",
        user_id=f"user-{number}",
        generation=1,
        state=state,
        reason=reason,
        currency="usd",
        stripe_invoice_id=f"in_{number}",
        request_attempt=1,
        **dict.fromkeys(("created_at", "updated_at"), AT),
    )


def old_payment(connection: sa.Connection, number: int, failed: int, alerted: int) -> None:
    counts = {"generation": 1, "attempts": failed, "failed_attempts": failed, "alerted_attempts": alerted}
    cents = dict.fromkeys(("amount_due_cents", "amount_paid_cents"), 0)
    insert(
        connection,
        "ledger_payments",
        stripe_invoice_id=f"in_{number}",
        month="2025-03",
        user_id=f"user-{number}",
        **{"status": "open", "as_of": AT, "way": "webhook", **counts, **cents},
    )


def old_mail(connection: sa.Connection, key: str, **said: Any) -> None:
    about = {
        "template": "finalized",
        "month": "2025-03",
        "user_id": "user-1",
        "content": '{"invoice":"in_1"}',
    }
    state = {"created_at": AT, "tries": 0, "next_try_at": AT}
    insert(connection, "ledger_outbox", key=key, **{**about, **state, **said})


def fill(connection: sa.Connection, alert_channel: str) -> None:
    """Write what a ledger held before: sent and waiting, of every kind."""
    month = {"usage_version": "v1", "users": 1, "calls": 1, "usage_cents": 1, "drafted_at": AT}
    insert(connection, "ledger_months", month="2025-03", **month, billing_started_at=AT)
    for number in (1, 2, 3, 4):
        old_bill(connection, number, "payment_failed")
        old_payment(connection, number, failed=1 if number == 1 else 2, alerted=1 if number < 3 else 0)
    old_bill(connection, 5, "failed", "no_billing_account")
    old_bill(connection, 6, "failed", "no_billing_account")
    reported = {"state": "failed", "reason": "no_billing_account", "reported_at": AT}
    insert(connection, "ledger_reported_bills", bill_id=5, **reported)
    sent = {"channel": alert_channel, "kind": "month_unbilled", "month": "2025-03", "sent_at": AT}
    insert(connection, "ledger_alerts", key="month_unbilled:2025-03:0", text='A "title"\nof\nlines', **sent)
    insert(connection, "ledger_alerts", key=SUMMARY["key"], text="2 failed\nboth", **sent)
    waiting = [
        {"alert": {**WAITS, "month": "2025-03"}, "attempts": {"in_2": 2}},
        {"alert": {**SUMMARY, "month": None}, "attempts": {"in_3": 2, "in_4": 2}},
    ]
    insert(connection, "ledger_cursors", name="payment_alerts", value=json.dumps(waiting), moved_at=AT)
    insert(connection, "ledger_cursors", name="mail_since", value=AT.isoformat(), moved_at=AT)
    old_mail(connection, "finalized:in_1", sent_at=AT, tries=1)
    old_mail(connection, "finalized:in_2", tries=3, error="450 later", content='{"invoice":"in_2"}')
    old_mail(connection, "finalized:in_3", given_up_at=AT, error="no_address")


def test_what_was_sent_is_not_sent_again_and_what_waits_goes_out_once(
    url: DatabaseUrl, engine: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with WebReceiver().running() as web, WebReceiver().running() as other:
        urls = [SecretStr(web.url()), SecretStr(other.url())]
        had_it, _ = (channel.name for channel in open_channels(urls))
        with engine.begin() as connection:
            fill(connection, had_it)

        assert migrate(engine) is True

        with Ledger(url) as ledger:
            forget_changed(ledger)
            with ledger.reading() as connection:
                assert failures_not_alerted(connection, 10) == []
                assert [(each.users, each.reason) for each in not_alerted(connection, MARCH)] == [
                    (1, "no_billing_account")
                ]
                (mail,) = due(connection, [MAIL], AT)
            assert (mail.key, mail.tries, mail.user_id) == ("finalized:in_2", 3, "user-1")
            assert mail.payload == {"invoice": "in_2"}
            for _ in range(2):
                Alerts(urls, ledger.outbox, logging.getLogger("tick")).send_all(kind="payment_failed")
        assert web.texts == ["in_2 failed\nagain"]
        assert sorted(other.texts) == ["2 failed\nboth", "in_2 failed\nagain"]
    assert caplog.records == []


@pytest.mark.both_databases
def test_the_rows_are_carried_over_as_they_were(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        fill(connection, "JSON #1")
    migrate(engine)
    with engine.connect() as connection:
        rows = {(row.key, row.channel): row for row in connection.execute(sa.select(outbox))}
        cursors = connection.exec_driver_sql("SELECT name FROM ledger_cursors").all()

    assert [tuple(row) for row in cursors] == [("mail_since",)]
    assert {key for key in rows if key[1] == "alerts"} == {
        (key, "alerts")
        for key in (
            *("payment_failed:in_1:1", "payment_failed:in_2:1", "payment_failed:in_2:2"),
            *("payment_failed:in_3:2", "payment_failed:in_4:2", SUMMARY["key"]),
            "users_not_invoiced:5:failed:no_billing_account",
        )
    }
    alert = rows["month_unbilled:2025-03:0", "JSON #1"]
    assert json.loads(alert.payload) == {"title": 'A "title"', "body": "of\nlines"}
    assert (alert.kind, alert.month, alert.sent_at, alert.created_at) == ("month_unbilled", "2025-03", AT, AT)
    given_up = rows["finalized:in_3", "mail"]
    assert (given_up.given_up_at, given_up.error, given_up.sent_at) == (AT, "no_address", None)
