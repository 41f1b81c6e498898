"""Mail about what was given back: once for each credit note, with where the money goes."""

from typing import Any

import pytest
from click.testing import CliRunner

from spell_billing.cli.notices import mail_preview as command
from spell_billing.ledger.credit_notes import CreditKind
from spell_billing.mail.settings import MailServer

USER = "user-0001"


@pytest.fixture
def invoiced(switched_on: Any, mail_server: MailServer, receiver: Any) -> Any:
    """Give an office that has mailed an invoice of $12.34."""
    switched_on.invoice(USER)
    switched_on.round(mail_server)
    receiver.taken.clear()
    return switched_on


def texts(receiver: Any) -> list[str]:
    return [each.get_body(("plain",)).get_content() for each in receiver.taken]


def test_each_credit_note_is_mailed_once(invoiced: Any, mail_server: MailServer, receiver: Any) -> None:
    invoiced.credit(USER, 400)
    invoiced.round(mail_server)
    invoiced.credit(USER, 100, number=2)
    for _ in range(2):
        invoiced.round(mail_server)

    subjects = [str(each["Subject"]) for each in receiver.taken]
    assert subjects == [
        f"We gave back {money} of your invoice for October 2026" for money in ("$4.00", "$1.00")
    ]
    assert 'Reason:      outage of 3 October, "all" regions' in texts(receiver)[0]
    html = receiver.taken[0].get_body(("html",)).get_content()
    assert "outage of 3 October, &#34;all&#34; regions" in html


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (CreditKind.REFUND, "The money goes back to the payment method that you paid with."),
        (
            CreditKind.BALANCE,
            "The amount was added to your balance and will be taken off your next invoices.",
        ),
        (CreditKind.REDUCE, "It lowers what is left to pay on the invoice.\r\n"),
    ],
)
def test_it_says_where_the_money_goes(
    invoiced: Any, mail_server: MailServer, receiver: Any, kind: CreditKind, words: str
) -> None:
    invoiced.hear(USER)
    invoiced.later(minutes=1)
    invoiced.credit(USER, 400, kind=kind)

    invoiced.round(mail_server)

    assert words in texts(receiver)[0]


def test_what_is_left_to_pay_is_said_once_stripe_was_read_after_the_credit(
    invoiced: Any, mail_server: MailServer, receiver: Any
) -> None:
    invoiced.credit(USER, 400, kind=CreditKind.REDUCE)
    invoiced.hear(USER, amount_due_cents=834)

    invoiced.round(mail_server)

    assert "what is left to pay on the invoice to $8.34." in texts(receiver)[0]


def test_a_credit_note_that_is_not_issued_yet_is_not_mailed(invoiced: Any, mail_server: MailServer) -> None:
    invoiced.credit(USER, 400, outcome=None)

    assert invoiced.round(mail_server).added == 0
    invoiced.credit(USER, 400)
    assert invoiced.round(mail_server).sent == 1


def test_the_preview_shows_it_or_says_that_there_is_none(
    invoiced: Any, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("MAIL_FROM", "Billing <billing@example.com>")
    arguments = ["--month", "2026-10", "--user", USER, "--template", "credited"]

    before = CliRunner().invoke(command, arguments)
    invoiced.credit(USER, 400)
    after = CliRunner().invoke(command, arguments)

    assert before.exit_code == 1
    assert "Nothing of user-0001's invoice for 2026-10 was given back" in before.stderr
    assert after.stdout.startswith("Subject: We gave back $4.00 of your invoice for October 2026\n")
