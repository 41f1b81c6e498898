"""What users read: amounts, month and links in words, in text and safe HTML, and one line per header."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from email.headerregistry import Address
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from spell_billing.core.errors import SettingsError
from spell_billing.core.outcomes import State
from spell_billing.core.terms import SEND, Terms, dump_terms
from spell_billing.ledger.credit_notes import CreditKind, CreditNote
from spell_billing.ledger.mails import GivenBack, Template
from spell_billing.ledger.payments import Payment
from spell_billing.ledger.rows import Bill
from spell_billing.mail.letters import Letter, Letters

SENDER = Address(display_name="Spell Platform", addr_spec="billing@example.com")
NOW = datetime(2026, 11, 1, 1, tzinfo=UTC)
_OTHERS: dict[str, Any] = {
    **dict.fromkeys(("id", "generation", "request_attempt"), 1),
    **dict.fromkeys(("included_cents", "covered_cents", "late_cents", "carried_cents", "late_lines"), 0),
    **dict.fromkeys(("credit_applied_cents", "unbilled_calls"), 0),
    **dict.fromkeys(("usage_cents", "unbilled_usage_cents"), Decimal(0)),
    **dict.fromkeys(("created_at", "updated_at", "finalized_at"), NOW),
    **dict.fromkeys(("reason", "message", "plan_id", "stripe_request_id")),
    **dict.fromkeys(("lines", "lines_hash", "run_id"), ""),
}
BILL = Bill(
    **_OTHERS,
    month="2026-10",
    user_id="user-0001",
    state=State.FINALIZED,
    stripe_customer_id="cus_1",
    currency="usd",
    calls=12345,
    total_cents=123456,
    description="Spell Platform API Usage - October 2026 (12345 calls, $1234.56)",
    stripe_invoice_id="in_1",
)
PAYMENT = Payment(
    stripe_invoice_id="in_1",
    month="2026-10",
    user_id="user-0001",
    generation=1,
    status="open",
    attempts=1,
    failed_attempts=1,
    next_attempt_at=datetime(2026, 11, 4, 9, tzinfo=UTC),
    amount_due_cents=123456,
    amount_paid_cents=0,
    decline_code="insufficient_funds",
    message="Your card has insufficient funds.",
    hosted_invoice_url="https://invoice.example.com/i/1?s=a&b",
    invoice_pdf="https://invoice.example.com/i/1/pdf",
    as_of=NOW,
    way="sensor",
)
NOTE = CreditNote(
    bill_id=1,
    number=1,
    stripe_invoice_id="in_1",
    cents=400,
    kind=CreditKind.REFUND,
    reason="outage",
    attempt=1,
    asked_at=NOW,
    outcome="issued",
    credit_note_id="cn_1",
)


def write(
    template: Template, bill: Bill = BILL, payment: Payment | None = PAYMENT, folder: Path | None = None
) -> Letter:
    given_back = GivenBack.by(NOTE) if template is Template.CREDITED else None
    return Letters(folder, SENDER).write(template, bill, payment, given_back)


class Links(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str | None] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found.append(dict(attrs)["href"])


def test_a_finalized_invoice_is_told_with_month_amount_calls_and_links() -> None:
    letter = write(Template.FINALIZED)

    assert letter.subject == "Your invoice for October 2026: $1,234.56"
    for part in (letter.text, letter.html):
        for words in ("October 2026", "$1,234.56", "12,345", "charged to your saved payment method"):
            assert words in part
        assert "Spell Platform" in part
    assert "https://invoice.example.com/i/1?s=a&b\n" in letter.text
    assert Links(letter.html).found == [PAYMENT.hosted_invoice_url, PAYMENT.invoice_pdf]


def test_an_invoice_paid_already_says_so() -> None:
    letter = write(Template.FINALIZED, payment=replace(PAYMENT, status="paid"))

    assert "already paid" in letter.text
    assert "charged to your saved payment method" not in letter.text + letter.html


def test_who_pays_by_invoice_is_asked_to_pay_and_promised_no_charge() -> None:
    terms = dump_terms(Terms(collection=SEND, net_days=30))
    letter = write(Template.FINALIZED, bill=replace(BILL, terms=terms))

    for part in (letter.text, letter.html):
        assert "Please pay $1,234.56 within 30 days" in part
        assert "saved payment method" not in part


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            {"amount_due_cents": 124456},
            "After your balance is applied, $1,244.56 will be charged to your saved payment method.",
        ),
        (
            {"amount_due_cents": 0, "status": "paid", "moved_cents": 123456},
            "it is moved to your next invoice.",
        ),
    ],
    ids=["a balance", "too little to be charged"],
)
def test_what_is_charged_is_what_is_due(said: dict[str, Any], words: str) -> None:
    letter = write(Template.FINALIZED, payment=replace(PAYMENT, **said))

    for part in (letter.text, letter.html):
        assert words in part
        assert "The amount will be charged" not in part


def test_without_known_links_there_are_none() -> None:
    letter = write(Template.FINALIZED, payment=None)

    assert "http" not in letter.text
    assert Links(letter.html).found == []


def test_a_failed_payment_is_told_with_what_is_due_and_when_it_is_tried_again() -> None:
    letter = write(Template.PAYMENT_FAILED)

    assert letter.subject == "We could not collect $1,234.56 for October 2026"
    for part in (letter.text, letter.html):
        assert "4 November 2026" in part
    assert Links(letter.html).found == [PAYMENT.hosted_invoice_url, PAYMENT.invoice_pdf]


def test_a_payment_that_failed_for_the_last_time_asks_for_action() -> None:
    letter = write(Template.PAYMENT_FAILED, payment=replace(PAYMENT, next_attempt_at=None))

    assert "No further attempt is planned" in letter.text
    assert "No further attempt is planned" in letter.html


@pytest.mark.parametrize("template", list(Template))
def test_the_reason_of_a_declined_card_stays_between_bank_and_platform(template: Template) -> None:
    letter = write(template)

    assert "insufficient" not in letter.subject + letter.text + letter.html


@pytest.mark.parametrize(("currency", "amount"), [("jpy", "¥123,456"), ("chf", "1,234.56 CHF")])
def test_amounts_are_in_the_invoice_s_currency(currency: str, amount: str) -> None:
    letter = write(Template.FINALIZED, bill=replace(BILL, currency=currency))

    assert letter.subject.endswith(f": {amount}")


def test_html_in_a_description_or_link_stays_text() -> None:
    letter = write(
        Template.FINALIZED,
        bill=replace(BILL, description="<script>alert(1)</script>"),
        payment=replace(PAYMENT, hosted_invoice_url='https://x/"><b>', invoice_pdf="javascript:alert(1)"),
    )

    assert "<script>" not in letter.html
    assert Links(letter.html).found == ['https://x/"><b>']


def test_a_folder_s_templates_replace_the_built_in_ones_of_the_same_name(tmp_path: Path) -> None:
    (tmp_path / "finalized.subject").write_text("{{ month }}\nBcc: other@example.com\n")

    letter = write(Template.FINALIZED, folder=tmp_path)

    assert letter.subject == "October 2026 Bcc: other@example.com"
    assert "charged to your saved payment method" in letter.text


@pytest.mark.parametrize("content", ["{{ nothing }}", "{% if %}", "{{ calls.x.y }}"])
def test_a_template_that_cannot_be_filled_in_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "finalized.txt").write_text(content)

    with pytest.raises(SettingsError, match=r"finalized\.txt cannot be filled in.*MAIL_TEMPLATES"):
        write(Template.FINALIZED, folder=tmp_path)


def test_the_message_has_both_parts_one_recipient_and_an_id_that_follows_from_the_key() -> None:
    letters = Letters(None, SENDER)
    letter = letters.write(Template.FINALIZED, BILL, PAYMENT)

    def make(key: str) -> Any:
        return letters.message(letter, "user-0001@example.com", key, NOW)

    message = make("finalized:in_1")

    assert message["From"] == "Spell Platform <billing@example.com>"
    assert message["To"] == "user-0001@example.com"
    assert message["Auto-Submitted"] == "auto-generated"
    assert (
        message["Message-ID"] == make("finalized:in_1")["Message-ID"] != make("finalized:in_2")["Message-ID"]
    )
    assert message["Message-ID"].endswith("@example.com>")
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    assert message.get_body(("plain",)).get_content().splitlines() == letter.text.splitlines()


def test_no_header_takes_a_second_line(make_message: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="CR or LF"):
        make_message("user-0001@example.com\r\nBcc: other@example.com")

    headers = make_message("user-0001@example.com").as_bytes().partition(b"\r\n\r\n")[0]
    assert b"Bcc" not in headers


@pytest.fixture
def make_message() -> Callable[..., Any]:
    def make(address: str) -> Any:
        letter = Letter("a subject", "text", "<p>text</p>")
        return Letters(None, SENDER).message(letter, address, "finalized:in_1", NOW)

    return make
