"""Reports money given back at Stripe without our commands, to operators, the platform and the user.

And refunds that failed at the bank, days after they succeeded: Stripe then has the money again, and the user
does not (https://docs.stripe.com/refunds#failed-refunds). What gave the refund, as a credit note, stands. A
credit note that a person voided, which Stripe allows while the invoice is open, is booked back likewise.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection

from spell_billing.alerts.alert import Alert, body
from spell_billing.core.money import format_money
from spell_billing.invoicing.came_back import correction_undone
from spell_billing.invoicing.given_back import rows_went_too
from spell_billing.ledger.audit_trail import write_audit
from spell_billing.ledger.charges import Charge
from spell_billing.ledger.credit_notes import MONEY_BACK, CreditKind, booked_back_cents
from spell_billing.ledger.mails import put_given_back
from spell_billing.ledger.outbox import put
from spell_billing.ledger.payments import Payment
from spell_billing.ledger.rows import Actor
from spell_billing.stripe_api.client import Invoice

_FAILED = frozenset({"failed", "canceled"})

Refund = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class News:
    """What was just read of an invoice: its payment, all that went back of it, and what came to nothing.

    `given_back_cents` sums what credit notes and refunds gave back; a refund that `failed` gave nothing, nor
    a credit note that a person `voided`.
    """

    payment: Payment
    currency: str
    given_back_cents: int
    failed: Sequence[Refund] = ()
    voided: Sequence[Mapping[str, Any]] = ()

    @property
    def failed_cents(self) -> int:
        """What the refunds that failed, and the void credit notes, were to give back."""
        return sum(int(each["amount"]) for each in (*self.failed, *self.voided))

    @property
    def tried_cents(self) -> int:
        """All that was ever given back: it only rises, so it makes the keys of alerts and mail."""
        return self.given_back_cents + self.failed_cents


def given_back_cents(invoice: Invoice, found: Sequence[Charge], notes: Sequence[Mapping[str, Any]]) -> int:
    """Sum what credit notes and refunds gave back: a note's refund once, a failed one not at all."""
    refunds_of_notes = sum(map(_refunded_cents, notes))
    return by_notes_cents(invoice) + sum(charge.refunded_cents for charge in found) - refunds_of_notes


def by_notes_cents(invoice: Invoice) -> int:
    """Sum an invoice's credit notes, those whose refund failed as well: they stand."""
    names = ("pre_payment_credit_notes_amount", "post_payment_credit_notes_amount")
    return sum(int(invoice.get(name) or 0) for name in names)


def to_balance_cents(note: Mapping[str, Any]) -> int:
    """Return what a credit note gave to the customer's balance: what it did not give elsewhere."""
    outside_cents = int(note.get("out_of_band_amount") or 0)
    return int(note.get("post_payment_amount") or 0) - _refunded_cents(note) - outside_cents


def _refunded_cents(note: Mapping[str, Any]) -> int:
    return sum(int(refund["amount_refunded"]) for refund in note.get("refunds") or ())


def tell_given_back(
    connection: Connection,
    news: News,
    *,
    known_cents: int,
    refunded_cents: int = 0,
    charges: Sequence[Charge] = (),
) -> None:
    """Tell operators, the platform and the user about money given back at Stripe without our commands.

    Args:
        connection: To the ledger, in a transaction.
        news: As it was just read.
        known_cents: How much of it was told before, or was asked for by us; less.
        refunded_cents: What was refunded to the card since then.
        charges: Those that were refunded or disputed since then.
    """
    payment, back_cents = news.payment, news.given_back_cents - known_cents
    money = format_money(back_cents, news.currency, grouping=True)
    too = rows_went_too(connection, payment.month, payment.user_id)
    alerts = [_alert_on(news, each, too) for each in charges] or [_alert_on_note(news, money, too)]
    put(connection, [each.on() for each in alerts])
    _note(connection, payment, back_cents, _in_words(charges) or f"{money} given back by a credit note")
    to = CreditKind.REDUCE if payment.status == "open" else None
    to = CreditKind.REFUND if refunded_cents == back_cents else to
    put_given_back(connection, payment, back_cents, to=to, whole_cents=news.tried_cents)


def tell_disputes(connection: Connection, news: News, charges: Sequence[Charge]) -> None:
    """Alert on disputes that are new or stand otherwise, and note them in the audit trail."""
    payment = news.payment
    too = rows_went_too(connection, payment.month, payment.user_id)
    undone = correction_undone(connection, payment.month, payment.user_id)
    put(connection, [_alert_on(news, each, too, undone).on() for each in charges])
    _note(connection, payment, None, _in_words(charges))


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
        _note(connection, payment, -cents, "; ".join(failed))
    if news.failed or news.voided:
        undone = correction_undone(connection, payment.month, payment.user_id)
        alerts = [_alert_on_failed(news, each, undone) for each in news.failed]
        alerts += [_alert_on_void(news, each, undone) for each in news.voided]
        put(connection, [each.on() for each in alerts])
    return cents


def _in_words(charges: Sequence[Charge]) -> str:
    return "; ".join(
        f"{format_money(each.refunded_cents, each.currency, grouping=True)} refunded, "
        f"{format_money(each.disputed_cents, each.currency, grouping=True)} disputed "
        f"({each.dispute or 'no dispute'})"
        for each in charges
    )


def _note(connection: Connection, payment: Payment, back_cents: int | None, detail: str) -> None:
    """Record in the audit trail what went back without our commands, or did not."""
    entry = {
        "month": payment.month,
        "user_id": payment.user_id,
        "generation": payment.generation,
        "action": MONEY_BACK,
        "stripe_invoice_id": payment.stripe_invoice_id,
        "amount_cents": back_cents,
        "detail": detail,
    }
    write_audit(connection, Actor(payment.way), payment.as_of, entry)


def _alert_on_note(news: News, money: str, too: str) -> Alert:
    payment = news.payment
    return _alert(
        payment,
        f"{payment.stripe_invoice_id}:{news.tried_cents}",
        f"{money} credited",
        f"A credit note at Stripe gave back {money} of invoice {payment.stripe_invoice_id} of user "
        f"{payment.user_id}.",
        too,
    )


def _alert_on(news: News, charge: Charge, *too: str) -> Alert:
    kept_cents = charge.amount_cents - charge.refunded_cents - charge.disputed_cents
    charged, refunded, disputed, kept = (
        format_money(cents, charge.currency, grouping=True)
        for cents in (charge.amount_cents, charge.refunded_cents, charge.disputed_cents, kept_cents)
    )
    is_dispute, payment = charge.dispute is not None, news.payment
    tried_cents = charge.refunded_cents + news.failed_cents
    return _alert(
        payment,
        f"{charge.charge_id}:{tried_cents}:{charge.disputed_cents}:{charge.dispute}",
        f"Dispute {str(charge.dispute).replace('_', ' ')}" if is_dispute else f"{refunded} refunded",
        f"Invoice {charge.stripe_invoice_id} of user {payment.user_id} was paid with {charged}: {refunded} "
        f"refunded, {disputed} disputed, {kept} kept.",
        *too,
    )


def _alert_on_failed(news: News, refund: Refund, undone: str) -> Alert:
    payment, money = news.payment, _money(news, refund)
    credit = (
        f"`spell-billing credit --month {payment.month} --user {shlex.quote(payment.user_id)} "
        f"--cents {refund['amount']} --to balance --reason ...`"
    )
    return _alert(
        payment,
        f"refund_failed:{refund['id']}",
        f"Refund of {money} failed",
        f"The bank sent back the refund of {money} of invoice {payment.stripe_invoice_id} of user "
        f"{payment.user_id} ({_why(refund)}): the money is at Stripe again, and the user does not have it.",
        f"Give it in another way: {credit} puts it on the next invoices; where nothing is left of the "
        "invoice to credit, by transfer, or on the customer's balance in Stripe's dashboard.",
        undone,
    )


def _alert_on_void(news: News, note: Mapping[str, Any], undone: str) -> Alert:
    payment, money = news.payment, _money(news, note)
    return _alert(
        payment,
        f"note_voided:{note['id']}",
        f"Credit note of {money} voided",
        f"A credit note of {money} of invoice {payment.stripe_invoice_id} of user {payment.user_id} was "
        "voided at Stripe: the user owes that again.",
        undone,
    )


def _money(news: News, refund: Refund) -> str:
    return format_money(int(refund["amount"]), news.currency, grouping=True)


def _why(refund: Refund) -> str:
    return str(refund.get("failure_reason") or refund["status"])


def _alert(payment: Payment, key: str, what: str, *sentences: str) -> Alert:
    """Return an alert on money of an invoice that went back, or did not; empty sentences are left out."""
    return Alert(
        key=f"{MONEY_BACK}:{key}",
        kind=MONEY_BACK,
        title=f"{what}: {payment.user_id}, {payment.month}",
        body=body(
            *(each for each in sentences if each),
            f"Next: spell-billing explain --month {payment.month} --user {payment.user_id}",
            f"https://dashboard.stripe.com/invoices/{payment.stripe_invoice_id}",
        ),
        month=payment.month,
    )
