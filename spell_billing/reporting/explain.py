"""The whole story of one user's bill, from the frozen rows to the invoice, or to the reason for none."""

from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any

from msgspec.structs import asdict

from spell_billing.core.drafting import Credit
from spell_billing.core.erasure import is_pseudonym
from spell_billing.core.errors import SettingsError, UsageError
from spell_billing.core.money import format_money, plain
from spell_billing.core.month import Month
from spell_billing.core.outcomes import INVOICED, Reason, State
from spell_billing.core.rate_cards import Model, RateCard
from spell_billing.invoicing.payment_facts import reason_in_words
from spell_billing.ledger.browsing import UserBill, has_bill, with_payment
from spell_billing.ledger.credits import credits_of
from spell_billing.ledger.ledger import LISTED, Ledger
from spell_billing.ledger.payments import Payment, payment_in_words
from spell_billing.ledger.rows import Bill
from spell_billing.ledger.unpaid import Step, steps_of
from spell_billing.reporting.status import bill_as_json, whole
from spell_billing.settings.databases import DatabaseUnreachableError
from spell_billing.usage.aggregate import items_of_user, rows_of_user, sums_of_user
from spell_billing.usage.contract import RowKeeper, UsageSource, UserEvidence
from spell_billing.usage.frozen import DayUsage, FrozenUsage, Totals
from spell_billing.usage.rated_items import priced_items_of
from spell_billing.usage.store import UsageStore

_AS_KEPT = ("status", "attempts", "failed_attempts", "amount_due_cents", "amount_paid_cents", "decline_code")


def explain(
    ledger: Ledger,
    store: UsageStore,
    month: Month,
    user_id: str,
    open_source: Callable[[], UsageSource] | None = None,
) -> dict[str, Any]:
    """Return the story of one user's bill; `answer` is it in a sentence. Nothing is asked of Stripe.

    `open_source` opens the usage source, which is asked for the days of a summed month; without it, they are
    left out.

    Raises:
        UsageError: when the frozen usage is not in the store.
    """
    record = ledger.month(month)
    bills = ledger.bills_of_user(month, user_id)
    frozen = store.version(month, record.usage_version) if record else None
    totals, days, engine = _usage_of(frozen, user_id, open_source)
    payments = _payments(ledger, bills)
    with ledger.reading() as connection:
        known = bool(bills) or totals.calls > 0 or has_bill(connection, user_id)
        credits_left = credits_of(connection, user_id)
    return {
        "month": str(month),
        "user_id": user_id,
        "known": known or record is None,
        "answer": _answer(month, user_id, bills, payments, drafted=record is not None, known=known)
        + _foreign(bills, credits_left),
        "usage": {
            "version": record.usage_version if record else None,
            "calls": totals.calls,
            "usage_cents": whole(totals.cost_cents),
            "days": [
                {"day": day.day.isoformat(), "calls": day.calls, "usage_cents": whole(day.cost_cents)}
                for day in days
            ],
            **({"engine": engine} if engine else {}),
            **(_items(frozen, user_id) if frozen else {}),
        },
        "bills": [_bill(bill, payments) for bill in bills],
        "history": [_entry(entry) for entry in _history(ledger.audit_trail(month, user_id), bills)],
    }


def _usage_of(
    frozen: FrozenUsage | None, user_id: str, open_source: Callable[[], UsageSource] | None
) -> tuple[Totals, Sequence[DayUsage], dict[str, Any] | None]:
    """Return a user's frozen usage, its days, and where they come from, if not from the frozen rows."""
    if frozen is None or not frozen.manifest.is_summed:
        days = rows_of_user(frozen, user_id) if frozen else []
        cost_cents = sum((day.cost_cents for day in days), start=Decimal(0))
        return Totals(sum(day.calls for day in days), cost_cents), days, None
    found = UserEvidence((), None)
    problem = "its rows were not asked for"
    if is_pseudonym(user_id):
        problem = "the user was erased, and it does not know the pseudonym"
    elif open_source is not None:
        try:
            source = open_source()
            if isinstance(source, RowKeeper):
                found, problem = source.evidence(frozen, user_id), ""
            else:
                problem = "USAGE_DATABASE_URL names another kind of source now"
        except (UsageError, SettingsError, DatabaseUnreachableError) as error:
            problem = error.message
    engine = {"name": frozen.manifest.backend, "as_frozen": found.is_as_frozen, "problem": problem or None}
    return sums_of_user(frozen, user_id).totals, found.days, engine


def _items(frozen: FrozenUsage, user_id: str) -> dict[str, Any]:
    """Return a user's frozen usage by item; nothing where no items were frozen."""
    if frozen.manifest.items_by is None and frozen.manifest.rates is None:
        return {}
    priced = priced_items_of(frozen, user_id)
    items: list[dict[str, Any]] = [
        {"item": each.item, "calls": each.calls, "usage_cents": whole(each.usage_cents)}
        for each in (
            [one.usage for one in priced] if frozen.manifest.rates else items_of_user(frozen, user_id)
        )
    ]
    for shown, one in zip(items, priced, strict=False):
        shown |= {
            "quantity": whole(one.quantity),
            "stored_cents": whole(one.stored_cents),
            "card": _card(one.card) if one.card else None,
        }
    return {"items_by": frozen.manifest.items_by, "items": items}


def _card(card: RateCard) -> dict[str, Any]:
    return {
        "model": card.model.value,
        "unit": card.unit.value,
        "package_size": plain(card.package_size) if card.model is Model.PACKAGE else None,
        "tiers": [
            {
                "up_to": None if tier.up_to is None else plain(tier.up_to),
                "unit_price_cents": plain(tier.unit_price_cents),
            }
            for tier in card.tiers
        ],
    }


def _history(trail: Sequence[dict[str, Any]], bills: list[Bill]) -> Iterator[dict[str, Any]]:
    """Return a user's audit entries, that of the month's drafts as one of the user's first bill."""
    own = [entry for entry in trail if entry["user_id"] is not None]
    drafted = [entry for entry in trail if entry["user_id"] is None]
    if bills and drafted:
        later = [entry["from_state"] for entry in own if entry["generation"] == 1]
        yield drafted[-1] | {"generation": 1, "to_state": later[0] if later else bills[0].state.value}
    yield from own


def _answer(
    month: Month,
    user_id: str,
    bills: list[Bill],
    payments: dict[str, dict[str, Any]],
    *,
    drafted: bool,
    known: bool,
) -> str:
    if not drafted:
        return f"{month} was not drafted yet: there is no bill of anyone. See spell-billing preview."
    if not bills:
        if not known:
            unknown = f"no bill of any month, no usage in {month}"
            return f"Nothing is known of user {user_id}: {unknown}. Check the id."
        return f"User {user_id} had no usage in {month}, so there is no bill."
    bill = bills[-1]
    money = format_money(bill.invoice_cents, bill.currency, grouping=True)
    if bill.state in INVOICED:
        paid = payments.get(str(bill.stripe_invoice_id), {}).get("in_words")
        # A paid invoice may have been moved to the next one, or paid from the customer's balance.
        how = f": {paid}" if paid and bill.state is State.PAID and paid != f"{money} paid" else ""
        calls = "1 call" if bill.calls == 1 else f"{bill.calls:,} calls"
        return f"Invoice {bill.stripe_invoice_id} of {money} ({calls}) is {bill.state}{how}."
    if bill.state in {State.PLANNED, State.DRAFTED}:
        return f"A bill of {money} is {bill.state}, not finalized yet: the next run sends it on."
    return f"No invoice of {money}: {bill.state}, {bill.reason}. {bill.why}"


def _foreign(bills: list[Bill], credits_left: list[Credit]) -> str:
    """Name the credits in another currency that hold the last bill, as `settle --credit` takes them."""
    if not bills or bills[-1].reason != Reason.CURRENCY_CHANGED:
        return ""
    held_by = [each for each in credits_left if each.currency != bills[-1].currency]
    named = ", ".join(
        f"{format_money(each.amount_cents, each.currency)} ({each.currency})" for each in held_by
    )
    return f" Credit that is left: {named}." if named else ""


def _payments(ledger: Ledger, bills: Sequence[Bill]) -> dict[str, dict[str, Any]]:
    """Return what is known of the payments of bills, by invoice id."""
    with ledger.reading() as connection:
        steps = steps_of(connection, [bill.stripe_invoice_id for bill in bills if bill.stripe_invoice_id])
        known = [with_payment(connection, bill) for bill in bills]
    return {
        each.payment.stripe_invoice_id: _payment(each, each.payment, steps) for each in known if each.payment
    }


def _payment(item: UserBill, payment: Payment, steps: Sequence[Step]) -> dict[str, Any]:
    went_back = {"refunded_cents": item.refunded_cents, "disputed_cents": item.disputed_cents}
    return {
        **{name: getattr(payment, name) for name in _AS_KEPT},
        "next_attempt_at": payment.next_attempt_at.isoformat() if payment.next_attempt_at else None,
        "in_words": payment_in_words(payment, item.bill.currency, **went_back),
        **went_back,
        "disputes": list(item.disputes),
        "why": reason_in_words(payment.decline_code, payment.message) if payment.failing else None,
        "as_of": payment.as_of.isoformat(),
        "heard_by": payment.way,
        "dunning": [
            {"day": step.step, "asked_at": step.asked_at.isoformat(), "outcome": step.outcome}
            for step in steps
            if step.stripe_invoice_id == payment.stripe_invoice_id
        ],
    }


def _bill(bill: Bill, payments: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        **bill_as_json({name: getattr(bill, name) for name in LISTED}),
        "run_id": bill.run_id,
        "stripe_request_id": bill.stripe_request_id,
        "request_attempt": bill.request_attempt,
        "terms": asdict(bill.parsed_terms),
        "without_tax": bill.without_tax,
        "lines": [
            {"kind": line.kind, "description": line.description, "amount_cents": line.amount_cents}
            for line in bill.parsed_lines
        ],
        "unbilled_calls": bill.unbilled_calls,
        "unbilled_usage_cents": whole(bill.unbilled_usage_cents),
        "payment": payments.get(bill.stripe_invoice_id or ""),
    }


def _entry(entry: dict[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in entry.items() if name not in {"id", "month", "user_id"} and value}
    return {**shown, "at": entry["at"].isoformat()}
