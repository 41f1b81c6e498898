"""Compares the rows of the ledger with its audit trail, where an altered row left no entry.

Apart from the code that writes both, as all of `rederive.py`.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.erasure import PSEUDONYM_PATTERN
from spell_billing.core.money import format_money
from spell_billing.core.month import Month
from spell_billing.invoicing.credit_findings import read_settled
from spell_billing.invoicing.findings import Finding, Kind, Reconciliation
from spell_billing.invoicing.rederive_late import read_said
from spell_billing.ledger.money_tables import grants
from spell_billing.ledger.moves import read_heirs
from spell_billing.ledger.rows import Bill, MonthRecord
from spell_billing.ledger.schema import audit, decisions, invoices, moves, reviews

_DRAFTS = ("planned", "held", "skipped", "failed")
"""States that a bill may have without an entry of its own: all drafts of a month share one."""
_DECIDED = ("approved", "agreed", "credit_settled", "given_back_settled")
_USERS = re.compile(r"([0-9,]+) bills, frozen usage (.+)")
_GRANTS = ("granted", "grant_revoked")
_GRANT = re.compile(r"([^ ]+): [^:]+(?=: )")
"""What an entry about a grant begins with: its id and content, before the reason."""
_REWRITTEN = re.compile(PSEUDONYM_PATTERN)
_CLOSED = ("settled", "voided")
_WAYS = {
    "billed-by-hand: ": "billed_by_hand",
    "written-off: ": "written_off",
    "for good: ": "written_off",
    "to be billed again: ": "voided",
}
"""What begins the words of an entry, and the reason that the bill has since."""


def trail_findings(
    connection: Connection, record: MonthRecord, latest: Mapping[str, Bill], found: Reconciliation
) -> Iterator[Finding]:
    """Return rows of the month that the audit trail does not explain; `latest` are bills by user."""
    month = found.month
    drafted = connection.execute(
        sa.select(audit.c.id, audit.c.detail)
        .where(audit.c.month == str(month), audit.c.user_id.is_(None), audit.c.action == "drafted")
        .order_by(audit.c.id.desc())
        .limit(1)
    ).first()
    yield from _of_month(record, drafted.detail if drafted else None, found)
    yield from _states(connection, month, drafted.id if drafted else 0)
    yield from _decisions(connection, month, started=record.billing_started_at is not None)
    yield from _moves(connection, latest)
    yield from grant_entry_findings(connection, latest)


def _of_month(record: MonthRecord, drafted: str | None, found: Reconciliation) -> Iterator[Finding]:
    """Check the month's own row against frozen usage, and against what the entry of the drafts says."""
    expected = found.frozen_calls, found.frozen_usage_cents
    if (record.calls, record.usage_cents) != expected:
        sides = (
            f"{calls} calls, {cents} cents" for calls, cents in (expected, (record.calls, record.usage_cents))
        )
        yield Finding(Kind.USAGE_DIFFERS, "every user", None, *sides)
    told = _USERS.fullmatch(drafted or "")
    if told and (told[1], told[2]) != (f"{record.users:,}", record.usage_version):
        yield Finding(
            Kind.USAGE_DIFFERS, "every user", None, told[0], f"{record.users:,} bills, {record.usage_version}"
        )


def _states(connection: Connection, month: Month, drafted_id: int) -> Iterator[Finding]:
    """Find bills in a state, or settled in a way, that no entry since the month's drafts brought them to."""
    moved = sa.or_(
        audit.c.from_state.is_(None), audit.c.from_state != audit.c.to_state, audit.c.action.in_(_CLOSED)
    )
    newest = (
        sa.select(audit.c.user_id, audit.c.generation, sa.func.max(audit.c.id).label("id"))
        .where(audit.c.month == str(month), audit.c.id > drafted_id, audit.c.to_state.is_not(None), moved)
        .group_by(audit.c.user_id, audit.c.generation)
        .subquery()
    )
    said = (
        sa.select(newest, audit.c.to_state, audit.c.detail).join(audit, audit.c.id == newest.c.id).subquery()
    )
    bill = invoices.c
    same = sa.and_(said.c.user_id == bill.user_id, said.c.generation == bill.generation)
    query = (
        sa.select(
            bill.user_id, bill.state, bill.reason, bill.stripe_invoice_id, said.c.to_state, said.c.detail
        )
        .select_from(invoices.outerjoin(said, same))
        .where(bill.month == str(month))
        .where(
            sa.or_(
                said.c.to_state != bill.state,
                sa.and_(said.c.to_state.is_(None), bill.state.not_in(_DRAFTS)),
                bill.state.in_(["settled", "void"]),
            )
        )
    )
    for row in connection.execute(query):
        if row.to_state != row.state:
            expected = row.to_state or "a draft"
            yield _altered(row, f"{expected}, by the audit trail", row.state)
        else:
            ways = (reason for text, reason in _WAYS.items() if (row.detail or "").startswith(text))
            way = next(ways, row.reason)
            if way != row.reason:
                yield _altered(row, f"{way}, by the audit trail", str(row.reason))


def _decisions(connection: Connection, month: Month, *, started: bool) -> Iterator[Finding]:
    """Find decisions that nobody's command wrote, or that cannot be read, and approvals of no review."""
    mine = decisions.c.month == str(month), decisions.c.kind.in_(_DECIDED)
    written = _count(connection, audit.c.action, audit.c.month == str(month), audit.c.action.in_(_DECIDED))
    rows = connection.execute(sa.select(decisions).where(*mine).order_by(decisions.c.id)).all()
    for row in rows:
        about = row.user_id or "every user"
        readable = {"credit_settled": read_settled, "given_back_settled": read_said}.get(row.kind)
        written[row.kind, row.user_id] -= 1
        if readable is not None and readable(row.content_hash) is None:
            yield Finding(
                Kind.CONTENT_ALTERED, about, None, f"an answer of kind {row.kind}", str(row.content_hash)
            )
        elif written[row.kind, row.user_id] < 0:
            found = f"{row.kind} {row.content_hash}"
            yield Finding(Kind.CONTENT_ALTERED, about, None, "a decision in the audit trail", found)
    approved = any(kind in {"approved", "agreed"} for kind, _ in written)
    reviewed = connection.execute(sa.select(reviews.c.month).where(reviews.c.month == str(month))).first()
    if started and approved and reviewed is None:
        yield Finding(Kind.NOT_APPROVED, "every user", None, "the review that was approved", "none")


def _moves(connection: Connection, latest: Mapping[str, Bill]) -> Iterator[Finding]:
    """Find moves of usage, of users who have a bill in the month, that nobody's command wrote."""
    rows = connection.execute(sa.select(moves).order_by(moves.c.id)).all()
    if not rows:
        return
    # The index is by month, and that of an entry is the month in which it was written.
    months = {str(Month.containing(row.at)) for row in rows}
    written = _count(connection, audit.c.action, audit.c.month.in_(months), audit.c.action == "user_moved")
    for row in rows:
        for user_id in dict.fromkeys((row.from_user, row.to_user)):
            written["user_moved", user_id] -= 1
            if written["user_moved", user_id] < 0 and user_id in latest:
                found = f"{row.from_user} -> {row.to_user}"
                yield Finding(Kind.CONTENT_ALTERED, user_id, None, "a move in the audit trail", found)


def grant_entry_findings(connection: Connection, bills: Mapping[str, Bill]) -> Iterator[Finding]:
    """Find grants that were made, taken back, altered or removed by nobody's command.

    Only those are reported whose user, or the user's heir, has one of `bills`, by user.
    """
    rows = connection.execute(sa.select(grants).order_by(grants.c.grant_id, grants.c.number)).all()
    # The index is by month, and that of an entry is the month in which it was written.
    within = {str(Month.containing(row.at)) for row in rows} | {bill.month for bill in bills.values()}
    # Of a grant that was removed, the month of its entry is not known: at the latest that of the drafts.
    within |= {str(each) for each in {Month.containing(bill.created_at) for bill in bills.values()}}
    told: Counter[tuple[str, str, str]] = Counter()
    query = sa.select(audit.c.user_id, audit.c.action, audit.c.detail).where(
        audit.c.month.in_(within), audit.c.action.in_(_GRANTS)
    )
    for user_id, action, detail in connection.execute(query):
        content = _GRANT.match(detail or "")
        # Where an erasure replaced a word of it, only the number of entries is left to compare.
        words = "" if content is None or _REWRITTEN.search(content[0]) else content[0]
        told[user_id, action, words] += 1
    sides: defaultdict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    users: defaultdict[str, list[str]] = defaultdict(list)
    for row in rows:
        action = _GRANTS[row.kind == "revoked"]
        money = format_money(row.amount_cents, row.currency)
        words = f"{row.grant_id}: {money}, {row.kind}, expires {row.expires_on}"
        keys = ((row.user_id, action, words), (row.user_id, action, ""))
        written = next((key for key in keys if told[key]), None)
        if written is None:
            sides[row.grant_id][1].append(f"{words}, user {row.user_id}")
            users[row.grant_id].append(row.user_id)
        else:
            told[written] -= 1
    for (user_id, _, words), count in told.items():
        if words and count:
            grant_id = words.partition(":")[0]
            sides[grant_id][0].append(f"{words}, user {user_id}")
            users[grant_id].append(user_id)
    if not sides:
        return
    heirs = read_heirs(connection)
    for grant_id, each in sorted(sides.items()):
        owners = (one for user_id in users[grant_id] for one in (user_id, heirs.heir_of(user_id)))
        owner = next((one for one in owners if one in bills), None)
        if owner is not None:
            expected, found = ("; ".join(side) or "no such grant" for side in each)
            yield Finding(Kind.CONTENT_ALTERED, owner, None, f"{expected}, by the audit trail", found)


def _count(
    connection: Connection, kind: sa.ColumnElement[str], *where: sa.ColumnElement[bool]
) -> Counter[tuple[str, str | None]]:
    """Count entries by kind and user."""
    query = sa.select(kind, audit.c.user_id, sa.func.count()).where(*where).group_by(kind, audit.c.user_id)
    return Counter({(action, user_id): count for action, user_id, count in connection.execute(query)})


def _altered(row: Any, expected: str, found: str) -> Finding:
    return Finding(Kind.CONTENT_ALTERED, row.user_id, row.stripe_invoice_id, expected, found)
