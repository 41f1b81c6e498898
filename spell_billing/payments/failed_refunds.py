"""Refunds that failed at the bank, days after they succeeded: booked back, and alerted on with the remedy.

Stripe then has the money again, and the user does not: https://docs.stripe.com/refunds#failed-refunds. What
gave the refund, as a credit note, stands. A credit note that a person voided, which Stripe allows while the
invoice is open, is booked back in the same way.
"""

import shlex
from collections.abc import Mapping
from typing import Any

from sqlalchemy.engine import Connection

from spell_billing.alerts.alert import Alert
from spell_billing.core.money import format_money
from spell_billing.invoicing.came_back import correction_undone
from spell_billing.ledger.audit_trail import write_audit
from spell_billing.ledger.credit_notes import MONEY_BACK, booked_back_cents
from spell_billing.ledger.outbox import put
from spell_billing.ledger.rows import Actor
from spell_billing.payments.given_back import News, money_back_alert

_FAILED = frozenset({"failed", "canceled"})

Refund = Mapping[str, Any]


def failed_refunds(charge: Mapping[str, Any]) -> list[Refund]:
    """Return the refunds of a charge that did not reach the customer; its refunds are expanded."""
    refunds = (charge.get("refunds") or {}).get("data") or ()
    return [each for each in refunds if each["status"] in _FAILED]


def tell_failed_refunds(connection: Connection, news: News, *, known_cents: int) -> int:
    """Alert on each failed refund and void note once, and take them off what the ledger knows was given back.

    `known_cents` is what the ledger takes for given back of the invoice. Return how much less that is now: a
    refund that failed before the ledger knew of it changes nothing.
    """
    payment = news.payment
    new_cents = news.failed_cents - booked_back_cents(connection, payment)
    cents = max(0, min(new_cents, known_cents - news.given_back_cents))
    if cents:
        failed = [f"refund of {_money(news, each)} failed: {_why(each)}" for each in news.failed]
        failed += [f"credit note of {_money(news, each)} voided" for each in news.voided]
        entry = {
            "month": payment.month,
            "user_id": payment.user_id,
            "generation": payment.generation,
            "action": MONEY_BACK,
            "stripe_invoice_id": payment.stripe_invoice_id,
            "amount_cents": -cents,
            "detail": "; ".join(failed),
        }
        write_audit(connection, Actor(payment.way), payment.as_of, entry)
    if news.failed or news.voided:
        undone = correction_undone(connection, payment.month, payment.user_id)
        alerts = [_alert_on(news, each, undone) for each in news.failed]
        alerts += [_alert_on_void(news, each, undone) for each in news.voided]
        put(connection, [each.on() for each in alerts])
    return cents


def _alert_on_void(news: News, note: Mapping[str, Any], undone: str) -> Alert:
    payment, money = news.payment, _money(news, note)
    return money_back_alert(
        payment,
        f"note_voided:{note['id']}",
        f"Credit note of {money} voided",
        f"A credit note of {money} of invoice {payment.stripe_invoice_id} of user {payment.user_id} was "
        "voided at Stripe: the user owes that again.",
        undone,
    )


def _alert_on(news: News, refund: Refund, undone: str) -> Alert:
    payment, money = news.payment, _money(news, refund)
    credit = (
        f"`spell-billing credit --month {payment.month} --user {shlex.quote(payment.user_id)} "
        f"--cents {refund['amount']} --to balance --reason ...`"
    )
    return money_back_alert(
        payment,
        f"refund_failed:{refund['id']}",
        f"Refund of {money} failed",
        f"The bank sent back the refund of {money} of invoice {payment.stripe_invoice_id} of user "
        f"{payment.user_id} ({_why(refund)}): the money is at Stripe again, and the user does not have it.",
        f"Give it in another way: {credit} puts it on the next invoices; where nothing is left of the "
        "invoice to credit, by transfer, or on the customer's balance in Stripe's dashboard.",
        undone,
    )


def _money(news: News, refund: Refund) -> str:
    return format_money(int(refund["amount"]), news.currency, grouping=True)


def _why(refund: Refund) -> str:
    return str(refund.get("failure_reason") or refund["status"])
