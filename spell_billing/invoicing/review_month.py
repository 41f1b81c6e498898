"""Reviews a drafted month before its first invoice, and keeps what is in review from being sent.

The rules are in `core/review.py`; what they look at is gathered here, from the frozen usage and the ledger.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
from sqlalchemy.engine import Connection

from spell_billing.core.errors import LedgerError, UsageError
from spell_billing.core.month import Month
from spell_billing.core.moves import Move, find_moves, without_moves
from spell_billing.core.outcomes import Reason
from spell_billing.core.past import (
    Changed,
    Differences,
    PastAmounts,
    PastChange,
    net_differences,
    sum_changes,
)
from spell_billing.core.review import (
    ALIKE_PERCENT,
    NAMED,
    Code,
    Coverage,
    MonthTotals,
    ReviewRules,
    account_findings,
    copy_findings,
    first_month_findings,
    month_findings,
    past_findings,
)
from spell_billing.core.review_ledger import (
    balance_findings,
    move_findings,
    not_compared_findings,
    older_findings,
)
from spell_billing.core.review_prices import small_amount_findings
from spell_billing.invoicing.review_prices import what_is_missed
from spell_billing.invoicing.usage_versions import earlier_versions
from spell_billing.invoicing.user_drafts import late_rows
from spell_billing.ledger.balances import read_left_balances
from spell_billing.ledger.cursors import read_older
from spell_billing.ledger.history import pinned_versions
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.moves import read_heirs
from spell_billing.ledger.queries import drafts_hash, read_month
from spell_billing.ledger.reviews import Review, findings_told, read_review, write_review
from spell_billing.ledger.rows import MonthRecord
from spell_billing.ledger.session import MonthSession
from spell_billing.ledger.totals import (
    GroupTotals,
    billed_before,
    calls_of,
    charged_by_currency,
    first_started,
    group_totals,
    last_approved,
    other_currencies,
    small_amounts,
    usage_by_currency,
    users_without,
)
from spell_billing.usage.frozen import FrozenUsage
from spell_billing.usage.store import UsageStore

_WHOLE_NUMBER = re.compile(r"0*(?P<digits>[0-9]+?)([.]0+)?")
"""An id as a number, with what a numeric column or a filled-up text adds to it: 7, 007, 7.0."""
_WITHOUT = frozenset({Reason.NO_BILLING_ACCOUNT, Reason.NO_STRIPE_CUSTOMER})


def review_month(
    ledger: Ledger,
    session: MonthSession,
    store: UsageStore,
    frozen: FrozenUsage,
    accounts: Callable[[], pa.Table],
    *,
    groups: Sequence[GroupTotals],
    rules: ReviewRules,
    approvals_needed: int = 1,
) -> Review | None:
    """Review the month's drafts, and keep what was found. A month whose billing has started is not reviewed.

    `frozen` is the version that was drafted, `groups` sums the drafts; `accounts` reads the accounts, where
    many users lack one.
    Returns the review of the newest drafts, or of those that were sent; None when there never was one.
    """
    month = session.month
    with ledger.reading() as connection:
        record = read_month(connection, month)
        if record is None or record.billing_started_at is not None:
            return read_review(connection, month)
        _, missing = earlier_versions(ledger, store, month)
        before = billed_before(connection, month)
        changes, moves = _past(connection, store, frozen)
        previous = [_totals(each, group_totals(connection, Month.parse(each.month))) for each in before]
        current, copies = _totals(record, groups), frozen.manifest.billed_before
        findings = [
            *past_findings(changes, rules),
            *move_findings(moves),
            *copy_findings(str(month), copies.count, copies.ids, than=str(month.plus(-1))),
            *month_findings(current, previous, rules),
            *first_month_findings(current, first_started(connection), datetime.now(UTC)),
            *what_is_missed(connection, store, frozen, accounts, rules=rules, previous=before),
            *account_findings(_coverage(connection, month, groups, accounts)),
            *small_amount_findings(str(month), small_amounts(connection, str(month)), current.cents, rules),
            *balance_findings(read_left_balances(connection, month)),
            *older_findings(read_older(connection)),
            *not_compared_findings(str(month), _not_compared(connection, missing)),
        ]
        fingerprint = session.drafts_hash or drafts_hash(connection, month)
    with session.writing() as connection:
        write_review(
            connection,
            month,
            drafts_hash=fingerprint,
            findings=[finding.as_json() for finding in findings],
            now=datetime.now(UTC),
            approvals_needed=approvals_needed,
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


def who_must_approve(review: Review) -> str:
    """Return a sentence on the people who must approve; empty where anyone may alone."""
    if review.approvals_needed == 1:
        return ""
    given = ", ".join(each.actor for each in review.approvals) or "nobody yet"
    return f"It needs the approval of {review.approvals_needed} people; approved by: {given}."


def approve_command(month: Month | str) -> str:
    """Return the command that approves a month in review."""
    return f'spell-billing approve --month {month} --reason "..."'


def _totals(record: MonthRecord, groups: Iterable[GroupTotals]) -> MonthTotals:
    return MonthTotals(record.month, record.users, record.calls, charged_by_currency(groups))


def _past(
    connection: Connection, store: UsageStore, frozen: FrozenUsage
) -> tuple[list[PastChange], list[Move]]:
    """Return what became of the billed months that the frozen version found changed, since they were billed.

    What earlier months found counts too, up to the last that a person approved: a loss that comes in small
    parts is one loss, and what was approved is not reviewed again.
    """
    late = frozen.manifest.late
    if late is None:
        return [], []
    months = {str(one.month) for one in late.months}
    heir_of = read_heirs(connection).heir_of
    rows = _changed(frozen, months)
    moves = _moves(connection, net_differences(rows, heir_of))
    since = max(min(months), last_approved(connection, frozen.month))
    for month, version in pinned_versions(connection, since=Month.parse(since).next(), before=frozen.month):
        try:
            rows += _changed(store.version(month, version), months)
        except UsageError:
            # Its evidence is lost, as the freeze has said: what it found cannot be counted.
            continue
    differences = without_moves(net_differences(rows, heir_of), moves)
    billed = {month: _billed(connection, month) for month in sorted(months)}
    currencies = {
        (month, user): currency
        for month, change in billed.items()
        if len(change.amounts) > 1
        for user, currency in other_currencies(connection, month, next(iter(change.amounts))).items()
    }
    return sum_changes(differences, billed, currencies), moves


def _not_compared(connection: Connection, missing: Mapping[str, str]) -> dict[str, str]:
    """Return why billed months cannot be compared, but for what a review of an earlier month has told."""
    told = {
        of for _, data in findings_told(connection, Code.PAST_NOT_COMPARED) for of in data["months"].items()
    }
    return dict(missing.items() - told)


def _changed(version: FrozenUsage, months: Collection[str]) -> list[Changed]:
    return [
        (row["usage_month"], row["user_id"], row["calls"], Decimal(row["cost_cents"]))
        for row in late_rows(version)
        if row["usage_month"] in months
    ]


def _moves(connection: Connection, differences: Differences) -> list[Move]:
    """Pair those who lost what a month billed them for with those who gained it."""
    losers: defaultdict[str, set[str]] = defaultdict(set)
    for (month, user), each in differences.items():
        if each.calls < 0:
            losers[month].add(user)
    gained = {month for (month, _), each in differences.items() if each.calls > 0}
    billed = {month: calls_of(connection, month, users) for month, users in losers.items() if month in gained}

    def lost_all(month: str, user: str) -> bool:
        return month in billed and -differences[month, user].calls >= billed[month].get(user, 0)

    return find_moves(differences, lost_all)


def _billed(connection: Connection, month: str) -> PastChange:
    sums = usage_by_currency(connection, Month.parse(month))
    amounts = {currency: PastAmounts(usage_cents) for currency, (_, usage_cents) in sums.items()}
    return PastChange(month, sum(users for users, _ in sums.values()), amounts=amounts)


def _coverage(
    connection: Connection, month: Month, groups: Sequence[GroupTotals], accounts: Callable[[], pa.Table]
) -> Coverage:
    """Return whether those who owe something have accounts, which are read only where many have none."""
    without = [each for each in groups if each.reason in _WITHOUT]
    users, users_lacking = (sum(each.charged_users for each in of) for of in (groups, without))
    alike: list[tuple[str, str]] = []
    if users_lacking * 100 >= ALIKE_PERCENT * users > 0:
        lacking = users_without(connection, month, Reason.NO_BILLING_ACCOUNT)
        if lacking:
            named = {_plain(account): account for account in accounts()["user_id"].to_pylist()}
            alike = [(user, named[_plain(user)]) for user in lacking if _plain(user) in named]
    return Coverage(
        users=users,
        cents=sum(each.charged_cents for each in groups),
        without=users_lacking,
        cents_without=sum(each.charged_cents for each in without),
        alike=len(alike),
        examples=alike[:NAMED],
    )


def _plain(user_id: str) -> str:
    """Return an id without what may be written otherwise: a number's digits, else letters and digits."""
    text = unicodedata.normalize("NFKC", user_id).casefold().strip()
    if number := _WHOLE_NUMBER.fullmatch(text):
        return number["digits"]
    return "".join(filter(str.isalnum, text)) or text
