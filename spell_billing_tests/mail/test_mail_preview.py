"""`spell-billing mail-preview`: the mail that a user would get, without a server or a send."""

from typing import Any

import pytest
from click.testing import CliRunner, Result

from spell_billing.cli.notices import mail_preview as command
from spell_billing.ledger.thresholds import Reached, note_reached
from spell_billing_tests.mail.conftest import OCTOBER


@pytest.fixture
def billed(office: Any, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("MAIL_FROM", "Billing <billing@example.com>")
    office.invoice("user-0001")
    return office


def preview(*arguments: str) -> Result:
    return CliRunner().invoke(command, ["--month", "2026-10", *arguments])


def test_a_user_s_mail_is_shown_and_nothing_is_sent_or_stored(billed: Any) -> None:
    shown = preview("--user", "user-0001")

    assert shown.exit_code == 0
    assert shown.stdout.startswith("Subject: Your invoice for October 2026: $12.34\n\nHello,\n")
    assert billed.outbox() == {}


def test_the_other_mail_and_the_html_part_are_shown(billed: Any) -> None:
    billed.hear("user-0001", failed_attempts=1)

    shown = preview("--user", "user-0001", "--template", "payment_failed", "--html")

    assert shown.exit_code == 0
    assert '<a href="https://invoice.example.com/user-0001">' in shown.stdout


@pytest.mark.usefixtures("billed")
def test_a_user_without_an_invoice_is_one_clear_message() -> None:
    shown = preview("--user", "user-0009")

    assert (shown.exit_code, shown.stdout) == (1, "")
    assert "user-0009 has no bill of 2026-10 that charges anything" in shown.stderr


def test_the_mail_about_a_spend_limit_is_shown_as_the_user_was_told(billed: Any) -> None:
    arguments = ("--user", "user-0001", "--template", "threshold_reached")
    assert "user-0001 reached no threshold of a spend limit in 2026-10" in preview(*arguments).stderr
    with billed.ledger.writing() as connection:
        note_reached(connection, OCTOBER, {"user-0001": Reached(80, 80, 100, "usd")}, billed.now)

    shown = preview(*arguments)

    assert shown.stdout.startswith(
        "Subject: You have used 80% of your spend limit for October 2026\n\nHello,"
    )
