"""Reviews a drafted month before its first invoice, and keeps what is in review from being sent."""

from collections.abc import Callable
from datetime import UTC, datetime

import pyarrow as pa

from spell_billing.core.errors import LedgerError
from spell_billing.core.month import Month
from spell_billing.core.review import (
    Finding,
    ReviewRules,
    account_findings,
    month_findings,
    move_findings,
    past_findings,
)
from spell_billing.invoicing.review_facts import coverage_of, past_of, totals_of
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.queries import read_month
from spell_billing.ledger.reviews import Review, drafts_hash, read_review, write_review
from spell_billing.ledger.session import MonthSession
from spell_billing.ledger.totals import billed_before, charged
from spell_billing.usage.contract import FrozenUsage
from spell_billing.usage.store import UsageStore


def review_month(
    ledger: Ledger,
    session: MonthSession,
    store: UsageStore,
    frozen: FrozenUsage,
    accounts: Callable[[], pa.Table],
    *,
    rules: ReviewRules,
) -> Review | None:
    """Review the month's drafts, and keep what was found. A month whose billing has started is not reviewed.

    Args:
        ledger: For reading.
        session: Holds the month's lock.
        store: The frozen usage, for what earlier months found late.
        frozen: The version that was drafted.
        accounts: Reads the billing accounts; called only where many users lack one.
        rules: From where on a person must look.

    Returns:
        The review of the newest drafts, or of those that were sent; None when there never was one.
    """
    month = session.month
    with ledger.reading() as connection:
        record = read_month(connection, month)
        if record is None or record.billing_started_at is not None:
            return read_review(connection, month)
        bills, before = charged(connection, str(month)), billed_before(connection, month)
        changes, moves = past_of(connection, store, frozen)
        previous = [totals_of(each, charged(connection, each.month)) for each in before]
        findings: list[Finding] = [
            *past_findings(changes, rules),
            *move_findings(moves),
            *month_findings(totals_of(record, bills), previous, rules),
            *account_findings(coverage_of(connection, month, bills, accounts)),
        ]
        fingerprint = drafts_hash(connection, month)
    with session.writing() as connection:
        write_review(
            connection,
            month,
            drafts_hash=fingerprint,
            findings=[finding.as_json() for finding in findings],
            now=datetime.now(UTC),
        )
        return read_review(connection, month)


def keeps_back(session: MonthSession) -> Review | None:
    """Return the review that keeps the month from being sent until a person approves it; None when it may go.

    What was begun goes on: it was reviewed, or nothing was found, before its first invoice.

    Raises:
        LedgerError: when the drafts were never reviewed, or are not those that were.
    """
    month = session.month
    with session.writing() as connection:
        record, review = read_month(connection, month), read_review(connection, month)
        if record is None or record.billing_started_at is not None:
            return None
        if review is None or review.drafts_hash != drafts_hash(connection, month):
            raise LedgerError(
                f"The drafts of {month} were not reviewed as they are now.",
                remedy="Nothing was sent. Materialize invoice_drafts of the month first.",
            )
        return review if review.needs_approval else None


def in_words(review: Review) -> str:
    """Return what the review found, a sentence or two each, on one line."""
    return " ".join(str(finding["text"]) for finding in review.findings)


def approve_command(month: Month | str) -> str:
    """Return the command that approves a month in review."""
    return f'spell-billing approve --month {month} --reason "..."'
