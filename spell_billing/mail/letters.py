"""Writes the mail: what the ledger knows of an invoice, through templates, into a message."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import Any

import jinja2

from spell_billing.core.errors import SettingsError
from spell_billing.core.money import format_money
from spell_billing.core.month import Month
from spell_billing.core.open_month import FULL_PERCENT
from spell_billing.ledger.mails import GivenBack, Template
from spell_billing.ledger.payments import Payment
from spell_billing.ledger.rows import Bill
from spell_billing.ledger.thresholds import THRESHOLD, Reached


@dataclass(frozen=True, slots=True)
class Letter:
    """A mail's parts, as its user would see them."""

    subject: str
    text: str
    html: str


class Letters:
    """Writes letters from the built-in templates, or those of the same name in a folder.

    Args:
        folder: Its `finalized.subject`, `.txt`, `.html`, `payment_failed.*`, `credited.*`,
            `threshold_reached.*` come first; None: no folder.
        sender: Who the mail is from.
    """

    def __init__(self, folder: Path | None, sender: Address) -> None:
        built_in = jinja2.PackageLoader("spell_billing.mail", "templates")
        own = [jinja2.FileSystemLoader(folder)] if folder is not None else []
        self._templates = jinja2.Environment(
            loader=jinja2.ChoiceLoader([*own, built_in]),
            autoescape=jinja2.select_autoescape(["html"]),
            undefined=jinja2.StrictUndefined,
            keep_trailing_newline=True,
        )
        self._sender = sender

    def write(
        self, template: Template, bill: Bill, payment: Payment | None, given_back: GivenBack | None = None
    ) -> Letter:
        """Fill in a template with what is known of a bill, as `ledger.mails.Mail` has it.

        Raises:
            SettingsError: when a template of the folder cannot be read or filled in.
        """
        facts = self._facts(template, bill, payment)
        if given_back is not None:
            facts |= _about(given_back, bill, payment)
        return self._letter(template, facts)

    def write_reached(self, reached: Reached, month: Month) -> Letter:
        """Fill in the template about a threshold of the user's spend limit in a month, as `write` does."""
        facts = {
            "month": month.label,
            "percent": reached.percent,
            "so_far": format_money(reached.so_far_cents, reached.currency, grouping=True),
            "limit": format_money(reached.limit_cents, reached.currency, grouping=True),
            "is_full": reached.percent >= FULL_PERCENT,
            "sender": self._sender_name,
        }
        return self._letter(THRESHOLD, facts)

    def message(self, letter: Letter, address: str, key: str, now: datetime) -> EmailMessage:
        """Put a letter into a message.

        The address is as `checked_address` gives it. The Message-ID follows from the key of the mail in the
        outbox: the same mail sent twice, after a crash, is recognizable as one.
        """
        message = EmailMessage(SMTP)
        message["From"] = self._sender
        message["To"] = Address(addr_spec=address)
        message["Subject"] = letter.subject
        message["Date"] = now
        message["Message-ID"] = f"<{hashlib.sha256(key.encode()).hexdigest()[:40]}@{self._sender.domain}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(letter.text)
        message.add_alternative(letter.html, subtype="html")
        return message

    def _facts(self, template: Template, bill: Bill, payment: Payment | None) -> dict[str, Any]:
        # What is due can be more or less than the total: the customer's balance counts.
        due_cents = payment.amount_due_cents if payment else bill.invoice_cents
        cents = due_cents if template is Template.PAYMENT_FAILED else bill.invoice_cents
        next_attempt = payment.next_attempt_at if payment else None
        return {
            "month": Month.parse(bill.month).label,
            "amount": format_money(cents, bill.currency, grouping=True),
            "due": format_money(due_cents, bill.currency, grouping=True),
            "moved": payment is not None and payment.moved_cents > 0,
            "calls": bill.calls,
            "description": bill.description,
            "paid": payment is not None and payment.status == "paid",
            "net_days": bill.parsed_terms.net_days if bill.parsed_terms.is_sent else None,
            "next_attempt": _day(next_attempt) if next_attempt else None,
            "invoice_url": _link(payment.hosted_invoice_url if payment else None),
            "pdf_url": _link(payment.invoice_pdf if payment else None),
            "sender": self._sender_name,
        }

    @property
    def _sender_name(self) -> str:
        return self._sender.display_name or self._sender.addr_spec

    def _letter(self, template: str, facts: dict[str, Any]) -> Letter:
        subject, text, html = (
            self._filled(f"{template}.{part}", facts) for part in ("subject", "txt", "html")
        )
        # A header is one line, whatever a template or a name in it says.
        return Letter(" ".join(subject.split()), text, html)

    def _filled(self, name: str, facts: dict[str, Any]) -> str:
        try:
            return self._templates.get_template(name).render(facts)
        except (jinja2.TemplateError, OSError, UnicodeError) as error:
            raise SettingsError(
                f"The mail template {name} cannot be filled in: {error}.",
                remedy="Correct it in the folder MAIL_TEMPLATES, or remove it there for the built-in one.",
            ) from error


def _about(given_back: GivenBack, bill: Bill, payment: Payment | None) -> dict[str, Any]:
    # What was known of the payment before the credit says nothing of what is left.
    known = payment is not None and payment.as_of >= given_back.at
    left_cents = payment.amount_due_cents - payment.amount_paid_cents if payment and known else None
    return {
        "left": None if left_cents is None else format_money(left_cents, bill.currency, grouping=True),
        "credited": format_money(given_back.cents, bill.currency, grouping=True),
        "credit_to": given_back.to and given_back.to.value,
        "reason": given_back.reason,
    }


def _day(moment: datetime) -> str:
    utc = moment.astimezone(UTC)
    return f"{utc.day} {Month.containing(utc).label}"


def _link(url: str | None) -> str | None:
    return url if url and url.startswith(("https://", "http://")) else None
