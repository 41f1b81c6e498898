"""Proof before the first request: what would be sent is what was frozen and drafted, to the cent."""

from contextlib import closing
from itertools import chain

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.errors import IntegrityError, LedgerError, UsageError
from spell_billing.core.lines import GRANT
from spell_billing.core.money import plain, step_cents
from spell_billing.core.month import Month
from spell_billing.core.outcomes import TO_DRIVE, State
from spell_billing.invoicing.credit_findings import credit_findings
from spell_billing.invoicing.grant_findings import grant_findings
from spell_billing.invoicing.rederive import content_findings, sum_findings
from spell_billing.invoicing.rederive_fees import plan_findings
from spell_billing.invoicing.rederive_trail import grant_entry_findings
from spell_billing.ledger.column_types import read_as, stream_as
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.queries import drafts_hash, has_line_of
from spell_billing.ledger.reviews import Review, read_review
from spell_billing.ledger.rows import Bill
from spell_billing.ledger.schema import audit, invoices
from spell_billing.ledger.session import MonthSession
from spell_billing.usage.frozen import MOST_COUNTED, BadRows, FrozenUsage
from spell_billing.usage.store import UsageStore
from spell_billing.usage.user_usage import charged_totals

_CHANGED_SINCE = ("redrafted", "adopted", "revised")
"""Actions after which the bills that were reviewed say something else."""
_FAR = 24
"""Months before and after: late usage is looked for in a shorter range."""
_ROWS_AT_ONCE = 5_000
_WITH_A_PAST = sa.or_(
    invoices.c.rating.is_not(None),
    *(
        invoices.c[name] != 0
        for name in ("covered_cents", "plan_cents", "credit_applied_cents", "late_cents", "late_lines")
    ),
)


def require_drafts_equal_usage(session: MonthSession, store: UsageStore) -> None:
    """Refuse to send a month whose drafts are not its frozen usage.

    Raises:
        LedgerError: when the month has no drafts.
        UsageError: when the frozen version is missing, or has bad rows.
        IntegrityError: when a frozen file was altered, or calls or cents differ.
    """
    record = session.record()
    if record is None:
        raise LedgerError(
            f"{session.month} has no drafts.", remedy="Materialize invoice_drafts of the month first."
        )
    frozen = store.version(session.month, record.usage_version)
    store.verify(frozen)
    require_good_rows(frozen)
    control = charged_totals(frozen)
    _, calls, usage_cents = session.drafted_usage()
    if (calls, usage_cents) != (control.calls, control.cost_cents):
        raise IntegrityError(
            f"{session.month}: the drafts hold {calls:,} calls and {plain(usage_cents)} cents, "
            f"the frozen usage {control.calls:,} calls and {plain(control.cost_cents)} cents.",
            remedy="Nothing was sent. Materialize the month from raw_usage on; if it recurs, do not bill.",
        )
    if record.billing_started_at is None:
        _require_each_fee_once(session, frozen)


def _require_each_fee_once(session: MonthSession, frozen: FrozenUsage) -> None:
    """Refuse drafts that count with fees that the month before charges in advance, and charges no more."""
    off = session.write(lambda connection: next(plan_findings(connection, session.month, frozen, {}), None))
    if off is not None:
        raise IntegrityError(
            f"{session.month}: user {off.user_id} owes {off.expected}, but {off.found}, "
            f"as when {session.month.previous()} was drafted again since.",
            remedy="Nothing was sent. Materialize invoice_drafts of the month again.",
        )


def require_sound_bills(session: MonthSession) -> None:
    """Refuse bills that `what_is_unsound` names, or others than were reviewed, with an IntegrityError."""
    wrong = session.write(what_is_unsound, session.month, sa.true())
    if wrong is None and session.page(TO_DRIVE, after_id=0, limit=1):
        review = session.write(read_review, session.month)
        if review is not None and session.write(other_drafts, session.month, review) is not None:
            wrong = f"The bills of {session.month} are not those that were reviewed."
    if wrong is not None:
        raise IntegrityError(
            wrong,
            remedy="Nothing was sent. The ledger was changed after these bills were drafted: restore it from "
            "its backup, or look at the user with `spell-billing explain`.",
        )


def other_drafts(connection: Connection, month: Month, review: Review) -> str | None:
    """Return the hash of drafts that are others than were reviewed; None if they are those, or may differ.

    A bill that was rightly drafted, or taken from Stripe, after the review changes the hash.
    """
    accepted = sa.and_(audit.c.action == "settled", audit.c.to_state != State.SETTLED.value)
    changed = sa.select(audit.c.id).where(
        audit.c.month == str(month), sa.or_(audit.c.action.in_(_CHANGED_SINCE), accepted)
    )
    if connection.execute(changed.limit(1)).first() is not None:
        return None
    now = drafts_hash(connection, month)
    return None if now == review.drafts_hash else now


def what_is_unsound(
    connection: Connection, month: Month, which: sa.ColumnElement[bool] = _WITH_A_PAST
) -> str | None:
    """Return what is wrong with the first unsound bill that a run would send; None when all are sound.

    Unsound is a plan that covers more than it includes, a credit that was never granted, an altered bill. By
    default those are looked at that charge something else than the month's usage alone.
    """
    to_send = sa.select(invoices).where(
        invoices.c.month == str(month), invoices.c.state.in_([state.value for state in TO_DRIVE])
    )
    # Most months have no such bill: that is one reading of them, where the proofs below are three.
    if which is _WITH_A_PAST and not connection.scalar(sa.select(to_send.where(which).exists())):
        return None
    has_credit = invoices.c.credit_applied_cents != 0
    has_grant = sa.and_(invoices.c.late_lines > 0, has_line_of(GRANT))
    for condition, proof in (
        (has_credit, credit_findings),
        (has_grant, grant_findings),
        (has_grant, grant_entry_findings),
    ):
        bills = {bill.user_id: bill for bill in read_as(connection, Bill, to_send.where(condition))}
        finding = next(proof(connection, bills), None) if bills else None
        if finding is not None:
            return f"User {finding.user_id} in {month}: {finding.expected}, {finding.found}."
    others = to_send.where(which).order_by(invoices.c.id).execution_options(yield_per=_ROWS_AT_ONCE)
    with closing(stream_as(connection, Bill, others)) as those:
        for bill in those:
            named = f"The bill of user {bill.user_id} for {month}"
            if bill.total_cents > 0 and bill.total_cents % step_cents(bill.currency):
                return f"{named} charges an amount that {bill.currency} does not allow."
            for finding in chain(sum_findings(bill), content_findings(bill)):
                return f"{named} is not what was drafted: {finding.expected}, {finding.found}."
    return None


def require_late_usage_once(ledger: Ledger, store: UsageStore, month: Month) -> None:
    """Refuse, with a UsageError, late usage that was billed since the freeze, or whose month was opened."""
    record = ledger.month(month)
    if record is None or record.billing_started_at is not None:
        return
    manifest = store.version(month, record.usage_version).manifest
    if manifest.late is None:
        return
    pinned = ledger.pinned_versions(since=month.plus(-_FAR), before=month.plus(_FAR))
    for item in manifest.late.months:
        if dict(pinned).get(item.month) != item.version:
            raise UsageError(
                f"{item.month} was opened again since {month} was frozen with late usage of it.",
                remedy=f"Nothing was sent. Bill {month} again: that freezes it again.",
            )
    late = {item.month for item in manifest.late.months}
    for other, version in pinned:
        if other == month:
            continue
        billed = store.version(other, version)
        for each in (billed, *billed.supplements):
            if f"{other}/{each.version}" in manifest.late_checked or each.manifest.late is None:
                continue
            both = late & {item.month for item in each.manifest.late.months}
            if both:
                raise UsageError(
                    f"{other} was billed since {month} was frozen, with late usage of {min(both)} as well.",
                    remedy=f"Nothing was sent. Bill {month} again: that freezes it again.",
                )


def require_good_rows(frozen: FrozenUsage) -> None:
    """Refuse a month with rows that cannot be billed, with a UsageError that names them."""
    text = bad_rows_text(frozen)
    if text:
        raise UsageError(text, remedy="Fix or delete them in usage_counters, then bill the month again.")


def bad_rows_text(frozen: FrozenUsage) -> str:
    """Name the rows that cannot be billed; empty where all can."""
    bad = frozen.manifest.bad_rows
    return f"{_rows(bad.count)} of usage_counters cannot be billed: {_named(bad)}." if bad.count else ""


def source_warnings(frozen: FrozenUsage, before: FrozenUsage | None) -> list[str]:
    """Name what a person should know of the source although the month can be billed, a sentence each.

    `before` is the version of the month billed before it, which may have told some of it already.
    """
    manifest, outside, found = frozen.manifest, frozen.manifest.outside, []
    if (bad := manifest.earlier_bad_rows).count:
        stop = _of(bad.count, "stops", "stop")
        found.append(
            f"{_rows(bad.count)} of billed months can no longer be billed, and {stop} nobody: {_named(bad)}."
        )
    if manifest.without_id:
        they = _of(manifest.without_id, "it is a duplicate", "they are duplicates")
        found.append(
            f"{_rows(manifest.without_id)} of {frozen.month} without an id: nothing shows whether {they}."
        )
    foreign = set(manifest.foreign).difference(before.manifest.foreign if before else ())
    if foreign:
        found.append(
            f"Row security of another server may hide rows of {', '.join(sorted(foreign))}: give the "
            "foreign table's server the options '-c row_security=off', so that it refuses instead."
        )
    if outside.future:
        have = _of(outside.future, "has", "have")
        found.append(
            f"{_counted(outside.future)} of usage_counters {have} a time after the freeze, "
            f"{manifest.frozen_at:%Y-%m-%d %H:%M} UTC: a sign that created_at holds local time, not UTC."
        )
    told = before.manifest.outside.before_first if before else 0
    if outside.before_first > told:
        are = _of(outside.before_first, "is", "are")
        found.append(
            f"{_counted(outside.before_first)} of usage_counters {are} from before the first billed month, "
            "and never billed."
        )
    found.extend(
        f"{_rows(one.found)} of {one.month} in usage_counters, but {one.billed:,} "
        f"{_of(one.billed, 'was', 'were')} billed: the month is too old to be compared, and the difference "
        "is not billed."
        for one in outside.changed
        # Rows of so many months ago may have been deleted deliberately.
        if one.found or one.month >= frozen.month.plus(-_FAR)
    )
    return found


def _named(bad: BadRows) -> str:
    named = "; ".join(f"id {row.id}: {row.problem}" for row in bad.examples)
    return named + (f"; and {bad.count - len(bad.examples):,} more" if bad.count > len(bad.examples) else "")


def _counted(count: int) -> str:
    return f"{count:,} or more rows" if count == MOST_COUNTED else _rows(count)


def _rows(count: int) -> str:
    return f"{count:,} {_of(count, 'row', 'rows')}"


def _of(count: int, one: str, more: str) -> str:
    return one if count == 1 else more
