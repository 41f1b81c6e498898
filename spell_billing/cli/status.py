"""`spell-billing status`: where months stand, in words and numbers for finance."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console
from rich.table import Column, Table

from spell_billing.alerts.alert import users
from spell_billing.cli.common import console, json_option, month_option, open_ledger, say, write_json
from spell_billing.core.money import format_amounts, format_money
from spell_billing.core.month import Month
from spell_billing.core.outcomes import INVOICED, REMEDIES, TO_DRIVE, State
from spell_billing.core.shown import one_line
from spell_billing.ledger.charges import Kept
from spell_billing.ledger.grants import read_liability
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.queries import read_month
from spell_billing.ledger.reviews import read_review
from spell_billing.reporting.status import MonthStatus, month_status

_WORDS = {
    "open": "open: the month is not over yet",
    "unbilled": "closed, not billed yet",
    "in_review": "in review: nothing is sent until it is approved",
    "partial": "partly billed: see below",
    "billed": "billed: every user is invoiced or rightly skipped",
}
_ROWS: tuple[tuple[str, frozenset[State]], ...] = (
    ("Invoiced", INVOICED),
    ("  paid", frozenset({State.PAID})),
    ("  sent, not paid yet", frozenset({State.FINALIZED})),
    ("  payment failed", frozenset({State.PAYMENT_FAILED})),
    ("  uncollectible", frozenset({State.UNCOLLECTIBLE})),
    ("Skipped, nothing due", frozenset({State.SKIPPED})),
    ("Failed", frozenset({State.FAILED})),
    ("Held", frozenset({State.HELD})),
    ("Parked, needs an operator", frozenset({State.PARKED})),
    ("Not sent yet", TO_DRIVE),
    ("Void", frozenset({State.VOID})),
    ("Settled by hand", frozenset({State.SETTLED})),
)
_BETWEEN = (
    ("included in plans", -1, "covered_cents"),
    ("fees, minimums and discounts", 1, "plan_cents"),
    ("late usage", 1, "late_cents"),
    ("credits of earlier months", -1, "credit_applied_cents"),
    ("paid by grants", -1, "grants_applied_cents"),
    ("too small to be charged", -1, "forgiven_cents"),
    ("carried to the next invoice", 1, "carried_cents"),
)
"""What lies between usage and totals, with its sign: below zero is carried what is still to be charged."""
_OF_REVIEW = (
    *("drafts_hash", "reviewed_at", "needs_approval", "approvals_needed", "approvals_missing"),
    "findings",
)
_OF_APPROVAL = ("kind", "user_id", "reason", "actor", "at")


@click.command("status")
@month_option(required=False)
@json_option
def command(month: Month | None, *, as_json: bool) -> None:
    """Say where a month stands, or every month from the first drafted one to the present.

    Of a month in review, also what was found, and the commands that approve it or bill it again.
    """
    now = datetime.now(UTC)
    with open_ledger() as ledger:
        drafted = [Month.parse(each.month) for each in ledger.months()]
        present = Month.containing(now)
        months = [month] if month else min([*drafted, present.previous()]).through(present)
        statuses = [month_status(ledger, each, now) for each in months]
        with ledger.reading() as connection:
            prepaid = read_liability(connection)
        if as_json:
            owed = [asdict(each) for each in prepaid]
            data = [
                {**status.as_json(), "review": _review_as_json(ledger, status.month), "prepaid": owed}
                for status in statuses
            ]
            write_json(data[0] if month else data)
            return
        for status in statuses:
            write_summary(console(), status)
            write_review_of(ledger, status.month)
            click.echo()
    for each in prepaid:
        promotional, paid = (
            format_money(cents, each.currency, grouping=True)
            for cents in (each.promotional_cents, each.paid_cents)
        )
        say(f"Grants that are left today: {promotional} promotional, {paid} bought.")


def write_summary(console: Console, status: MonthStatus) -> None:
    """Write the month's state, totals, and who has no invoice and why."""
    console.print(f"{status.month.label} ({status.month}): {_WORDS[status.state]}", style="bold")
    if status.record is None:
        return
    usage = format_amounts(status.by_currency("usage_cents"))
    calls = status.record.calls
    console.print(
        f"{users(status.users)} with a bill, {calls:,} {'call' if calls == 1 else 'calls'}, worth {usage}."
    )
    for words, sign, name in _BETWEEN:
        if any(status.by_currency(name).values()):
            console.print(f"  {words}: {_amounts(status, name, sign=sign)}")
    totals = Table("", *_numbers(), box=None, pad_edge=False)
    for name, states in _ROWS:
        number = status.count(states)
        if number or states is INVOICED:
            sums = sorted(status.by_currency("total_cents", states).items())
            amounts = [format_money(cents, code, grouping=True) for code, cents in sums if cents]
            totals.add_row(name, f"{number:,}", "\n".join(amounts) or format_money(0))
    console.print(totals)
    for kept in status.money:
        _write_money(console, kept)
    if status.total("discount_cents"):
        console.print(f"Coupons at Stripe took {_amounts(status, 'discount_cents')} off.")
    if status.total("tax_cents"):
        console.print(f"Stripe put tax of {_amounts(status, 'tax_cents')} on top.")
    if status.total("without_tax"):
        number = status.total("without_tax")
        which = "1 invoice is" if number == 1 else f"{number:,} invoices are"
        console.print(f"{which} without the tax that was asked for.")
    _write_reasons(console, status)


def _write_money(console: Console, kept: Kept) -> None:
    """Write what was received and kept, where that is not simply what the paid invoices charged."""
    parts = (
        ("refunded", kept.refunded_cents),
        ("disputed", kept.disputed_cents),
        ("taken off by credit notes", kept.credited_cents),
        ("moved to the next invoices", max(kept.moved_cents, 0)),
        ("of earlier invoices collected with these", max(-kept.moved_cents, 0)),
        ("paid from balances", kept.from_balance_cents),
    )
    not_zero = [
        f"{format_money(cents, kept.currency, grouping=True)} {words}" for words, cents in parts if cents
    ]
    if not_zero:
        paid, left = (
            format_money(cents, kept.currency, grouping=True) for cents in (kept.paid_cents, kept.kept_cents)
        )
        console.print(f"Money: {paid} received, {', '.join(not_zero)}; {left} kept.")


def _write_reasons(console: Console, status: MonthStatus) -> None:
    reasons = [(group, group.reason) for group in status.groups if group.reason is not None]
    if not reasons:
        return
    table = Table(
        *_numbers(),
        "who",
        "why, and what to do",
        box=None,
        pad_edge=False,
        title="Who has no invoice, and why",
        title_justify="left",
    )
    for group, reason in reasons:
        money = format_money(group.total_cents, group.currency, grouping=True)
        names = ", ".join(status.named(group))
        more = ", ..." if names and group.users > len(status.named(group)) else ""
        table.add_row(f"{group.users:,}", money, one_line(f"{names}{more}"), f"{reason}: {REMEDIES[reason]}")
    console.print(table)


def _numbers() -> tuple[Column, Column]:
    return Column("users", justify="right"), Column("amount", justify="right")


def _amounts(status: MonthStatus, name: str, *, sign: int = 1) -> str:
    sums = status.by_currency(name).items()
    return format_amounts({currency: sign * cents for currency, cents in sums if cents})


def _review_as_json(ledger: Ledger, month: Month) -> dict[str, Any] | None:
    """Return the month's review for programs, as the endpoints show it; None until the month is drafted."""
    review = ledger.read(read_review, month)
    if review is None:
        return None
    approval = review.approval
    return {
        **{name: getattr(review, name) for name in _OF_REVIEW},
        "approval": approval and {name: getattr(approval, name) for name in _OF_APPROVAL},
    }


def write_review_of(ledger: Ledger, month: Month) -> bool:
    """Write what keeps the month from being sent, and return whether anything does."""
    from spell_billing.invoicing.review_month import approve_command, who_must_approve  # noqa: PLC0415 - heavy: pyarrow

    if not ledger.standing(month).in_review:
        return False
    before = month.previous()
    with ledger.reading() as connection:
        review, record_before = read_review(connection, month), read_month(connection, before)
    say(f"{month} is in review: nothing was sent to Stripe.")
    for finding in review.findings if review else ():
        say(f"  - {finding['text']}")
    if review and review.approvals_needed > 1:
        say(who_must_approve(review))
    if record_before is not None:
        say(f"Compare: spell-billing preview --month {month} --against {before}")
    say(f"If it is right: {approve_command(month)}")
    say(f"Then, or when it is corrected: spell-billing bill --month {month}")
    return True
