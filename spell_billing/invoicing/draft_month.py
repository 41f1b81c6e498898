"""Brings a month's drafts in the ledger up to date: all, or those that wait once billing has begun."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.drafting import Draft
from spell_billing.core.month import Month
from spell_billing.core.outcomes import SAID_BY_STRIPE, Reason, State
from spell_billing.core.plausible import USUAL_RULES, HoldRules, Usual, why_not_plausible
from spell_billing.core.terms import USUAL_POLICY, Policy
from spell_billing.invoicing.given_back import hold_what_may_go_back_twice
from spell_billing.invoicing.user_drafts import Accounts, drafts_and_rows, drafts_of
from spell_billing.ledger.cursors import end_redrafting
from spell_billing.ledger.reviews import Hold, PeoplesHolds, read_decisions, read_waiting, write_holds
from spell_billing.ledger.rows import Change, DraftRow, content_of
from spell_billing.ledger.schema import invoices
from spell_billing.ledger.session import MonthSession
from spell_billing.ledger.totals import billed_before, usual_amounts
from spell_billing.ledger.usual_bills import usual_bill
from spell_billing.usage.contract import UsageSource
from spell_billing.usage.frozen import FrozenUsage
from spell_billing.usage.user_usage import charged_totals

_REDRAFTED = [state.value for state in (State.FAILED, State.HELD, State.VOID)]


def draft_month(
    session: MonthSession,
    source: UsageSource,
    frozen: FrozenUsage,
    rules: HoldRules = USUAL_RULES,
    policy: Policy = USUAL_POLICY,
    *,
    accounts: Accounts | None = None,
) -> bool:
    """Bring the month's drafts up to date in the ledger. Nothing goes to Stripe.

    Before billing has started, all drafts are written anew. Afterwards usage is frozen, and only bills
    without an invoice (failed, held, skipped, voided for billing again) are drafted again, with the accounts
    as they are now.

    `frozen` is the version to draft from, after the start of billing the pinned one; the policy is frozen
    with each bill that is drafted now. `accounts` reads the accounts, if not the source.

    Returns whether drafts were written or changed.
    """
    if session.has_begun():
        changed = _redraft(session, source, frozen, rules, policy, accounts=accounts)
        changed = hold_what_may_go_back_twice(session) or changed
        with session.writing() as connection:
            end_redrafting(connection, session.month)
        return changed
    totals = frozen.manifest.frozen if frozen.manifest.rates is None else charged_totals(frozen)
    usual = partial(usual_bill, session.month)
    drafts = drafts_and_rows(
        session.month, source, frozen, session.history, usual, policy=policy, accounts=accounts
    )
    gives_back = False

    def watched() -> Iterator[Draft | DraftRow]:
        nonlocal gives_back
        for draft in drafts:
            # A line below zero stands beside others, or is all that the bill has.
            if isinstance(draft, Draft) and (draft.total_cents <= 0 or len(draft.lines) > 1):
                gives_back = True
            yield draft

    session.replace_drafts(
        watched(),
        usage_version=frozen.version,
        calls=totals.calls,
        usage_cents=totals.cost_cents,
    )
    _hold_drafts(session, rules)
    if gives_back:
        hold_what_may_go_back_twice(session)
    return True


def _redraft(
    session: MonthSession,
    source: UsageSource,
    frozen: FrozenUsage,
    rules: HoldRules,
    policy: Policy,
    *,
    accounts: Accounts | None,
) -> bool:
    waiting = {bill.user_id: bill for bill in session.bills_to_redraft()}
    if not waiting:
        return False
    with session.writing() as connection:
        holding = _holding_of(connection, session.month, invoices.c.state.in_(_REDRAFTED), rules)
    history_of = partial(session.history, only=waiting.keys())
    changes: list[Change] = []
    is_billed_again = False
    drafts = drafts_of(
        session.month, source, frozen, history_of, only=waiting.keys(), policy=policy, accounts=accounts
    )
    for drafted in drafts:
        bill, draft, message = waiting[drafted.user_id], drafted, None
        lines_hash = content_of(drafted)["lines_hash"]
        held = holding.why(drafted.user_id, drafted.currency, drafted.total_cents, lines_hash)
        if drafted.state is State.PLANNED and held is not None:
            reason, message = held
            draft = msgspec.structs.replace(drafted, state=State.HELD, reason=reason)
        if bill.state is State.VOID:
            session.add_generation(bill, draft)
            is_billed_again = True
            continue
        after = replace(bill, message=message, **content_of(draft))
        is_same = bill.lines_hash == after.lines_hash
        if after.state is State.PLANNED and bill.reason in SAID_BY_STRIPE and is_same:
            after = replace(after, reason=bill.reason, message=bill.message)
        if (after.state, after.reason) == (bill.state, bill.reason) and is_same:
            continue
        changes.append(Change(bill, after, "redrafted"))
    session.apply(changes)
    return is_billed_again or bool(changes)


def _hold_drafts(session: MonthSession, rules: HoldRules) -> None:
    """Hold those of the month's new drafts that are not to be sent."""
    month, planned = session.month, invoices.c.state == State.PLANNED.value
    # Most bills no rule reaches: a month may have a million of them.
    large = sa.and_(planned, invoices.c.total_cents > rules.never_below)
    with session.writing() as connection:
        holding = _holding_of(connection, month, large, rules)
        people = holding.people
        named = sa.true() if people.everybody else invoices.c.user_id.in_(people.users)
        holds = [
            Hold(bill, *held)
            for bill in read_waiting(connection, month, sa.or_(large, sa.and_(planned, named)))
            if (held := holding.why(bill.user_id, bill.currency, bill.total_cents, bill.lines_hash))
        ]
        write_holds(connection, month, holds, session.actor, datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class _Holding:
    """Holds bills by people's decisions, by what users were charged before, and by the rules."""

    people: PeoplesHolds
    usual: Mapping[tuple[str, str], Usual]
    rules: HoldRules

    def why(
        self, user_id: str, currency: str, total_cents: int, lines_hash: str
    ) -> tuple[Reason, str] | None:
        """Return why a bill that could be sent is held; None when it is not."""
        by_name = self.people.held_by_name(user_id, lines_hash)
        if by_name is None and not self.people.is_released(user_id, lines_hash):
            usual = self.usual.get((user_id, currency))
            words = why_not_plausible(total_cents, currency, usual, self.rules)
            # A reason of its own comes before a hold of all bills, and outlasts it.
            if words is not None:
                return Reason.NOT_PLAUSIBLE, words
        reason = self.people.held_because(user_id, lines_hash)
        return (Reason.HELD_BY_PERSON, reason) if reason is not None else None


def _holding_of(
    connection: Connection, month: Month, bills: sa.ColumnElement[bool], rules: HoldRules
) -> _Holding:
    """Read what is needed to hold bills of the month that meet the condition."""
    users = sa.select(invoices.c.user_id).where(invoices.c.month == str(month), bills)
    usual = usual_amounts(connection, billed_before(connection, month), users)
    return _Holding(PeoplesHolds(read_decisions(connection, month)), usual, rules)
