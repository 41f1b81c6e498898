"""Money given back twice: at Stripe by a person, and by late usage, because the rows were corrected as well.

Nothing tells goodwill from a correction but a person. So a bill that would give back for a month of which
money was given back at Stripe is held, until a person has said what that was for. The answer is about the
money that was given back: no later bill asks again, or gives it back again.
"""

import shlex
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.errors import LedgerError
from spell_billing.core.fees import FEES_CHANGED, FeesOf, fees_key, fees_month
from spell_billing.core.late import Billed, BillOf
from spell_billing.core.late_lines import late_sums
from spell_billing.core.lines import FEE, FEES, LATE_KINDS, load_lines
from spell_billing.core.money import format_money
from spell_billing.core.month import Month
from spell_billing.core.outcomes import Reason, State
from spell_billing.core.pricing import load_rating
from spell_billing.ledger.credits import AFTER_ALL
from spell_billing.ledger.fees import HAS_FEES, Position, fees_held
from spell_billing.ledger.given_back import Answer, Invoice, answered_cents, money_back, read_answers
from spell_billing.ledger.history import read_billed
from spell_billing.ledger.queries import has_line_of, latest_generation, left_something, read_bills
from spell_billing.ledger.reviews import Decision, DecisionKind, write_decision
from spell_billing.ledger.rows import Actor, Bill, Change
from spell_billing.ledger.schema import invoices
from spell_billing.ledger.session import MonthSession


class GivenBackAs(StrEnum):
    """What money was given back for, as on the command line."""

    GOODWILL = "goodwill"
    """Beside whatever the rows say."""
    CORRECTION = "correction"
    """For the rows that went, as far as they were charged."""


def hold_what_may_go_back_twice(session: MonthSession) -> bool:
    """Hold the month's bills that may give back a second time, and say in words what was given back.

    That is also those that were drafted before the money went back, and not sent yet. Return whether any
    bill was changed.
    """
    asked = sa.or_(
        invoices.c.state == State.PLANNED.value,
        sa.and_(invoices.c.state == State.HELD.value, invoices.c.reason == Reason.ALREADY_GIVEN_BACK.value),
    )
    with session.writing() as connection:
        late = sa.or_(*(has_line_of(kind) for kind in sorted(LATE_KINDS)))
        is_late = sa.and_(left_something(connection), invoices.c.late_lines > 0, late)
        changed = invoices.c.lines.contains(f'"kind":"{FEE}","description":"{FEES_CHANGED}')
        has_fees = sa.and_(HAS_FEES, changed)
        latest = latest_generation(session.month)
        bills = read_bills(connection, session.month, latest, sa.or_(is_late, has_fees), asked)
        changes = [
            Change(bill, _held(bill, words), "held", words)
            for bill, words in _questions(connection, session.month, bills)
            if (bill.state, bill.message) != (State.HELD, words)
        ]
    return bool(session.apply(changes))


def _held(bill: Bill, words: str) -> Bill:
    return replace(bill, state=State.HELD, reason=Reason.ALREADY_GIVEN_BACK, message=words)


def _questions(connection: Connection, month: Month, bills: list[Bill]) -> Iterator[tuple[Bill, str]]:
    """Return the bills that give back what may have been given back, with what was in words."""
    giving = {bill.id: _given_by(bill.lines) for bill in bills}
    wanted = {(bill.user_id, of) for bill in bills for of in giving[bill.id]}
    billed = _held_of(connection, month, wanted)
    for bill in bills:
        words = _in_words(bill, giving[bill.id], billed)
        if words is not None:
            yield bill, words


def _given_by(lines: str) -> dict[str, int]:
    """Return what lines give back for late usage, above zero, by its month, and for fees."""
    loaded = load_lines(lines)
    given = {of: -cents for of, (cents, _) in late_sums(loaded).items() if cents < 0}
    fees = (line for line in loaded if line.kind == FEE and line.amount_cents < 0)
    return given | {fees_key(line.usage_month): -line.amount_cents for line in fees}


def _held_of(
    connection: Connection, month: Month, wanted: Collection[BillOf]
) -> dict[BillOf, Billed | FeesOf]:
    """Return what all bills but those of `month` hold of usage, and of fees."""
    of_fees = {(user, of) for user, key in wanted if (of := fees_month(key))}
    usage = {(user, of) for user, of in wanted if fees_month(of) is None}
    held = fees_held(connection, of_fees, month).held if of_fees else {}
    billed = read_billed(connection, month, usage) if usage else {}
    return {**billed, **{(user, fees_key(of)): each for (user, of), each in held.items()}}


def _words(of: str) -> str:
    return of if fees_month(of) else f"rows of {of}"


def _in_words(bill: Bill, giving: Mapping[str, int], billed: Mapping[BillOf, Billed | FeesOf]) -> str | None:
    nothing = Billed()
    asked = {of: each.back for of in giving if (each := billed.get((bill.user_id, of), nothing)).back}
    if not asked:
        return None
    back = {month: cents for each in asked.values() for month, cents in each.items()}
    user = shlex.quote(bill.user_id)
    given = " and ".join(
        f"{format_money(cents, bill.currency, grouping=True)} of the invoice of {month}"
        for month, cents in sorted(back.items())
    )
    gives = " and ".join(
        f"{format_money(giving[of], bill.currency, grouping=True)} for {_words(of)}" for of in sorted(asked)
    )
    settle = " and ".join(
        f"`spell-billing settle --month {month} --user {user} --given-back correction`"
        for month in sorted(back)
    )
    return (
        f"{given} went back, and this bill would give back {gives}: "
        f"`spell-billing release --month {bill.month} --user {user}`, or {settle}"
    )


def bill_of_user(connection: Connection, month: Month | str, user_id: str) -> Bill | None:
    """Return a user's bill of a month, in its latest generation; None where there is none."""
    latest = latest_generation(Month.parse(str(month)))
    return next(iter(read_bills(connection, month, latest, invoices.c.user_id == user_id)), None)


def release_both(connection: Connection, month: Month, user_id: str, reason: str, actor: Actor) -> None:
    """Record that what was given back at Stripe was meant beside what the user's held bill gives back.

    Raises:
        LedgerError: when that is not what the bill says any more: the person decided on other amounts.
    """
    bill = bill_of_user(connection, month, user_id)
    assert bill is not None  # noqa: S101 - it is held
    if [words for _, words in _questions(connection, month, [bill])] != [bill.message]:
        raise LedgerError(
            f"What was given back to user {user_id} is no longer what the bill for {month} says.",
            remedy=f"Look at what it says then: spell-billing bill --month {month}.",
        )
    giving = {(user_id, of) for of in _given_by(bill.lines)}
    back: dict[str, int] = {}
    for each in _held_of(connection, month, giving).values():
        back |= each.back
    for of, cents in sorted(back.items()):
        generation = read_bills(connection, of, invoices.c.user_id == user_id)[-1].generation
        _write(connection, Answer(user_id, of, generation, bill.currency, cents, 0, of), reason, actor)


def settle_given_back(
    connection: Connection,
    month: Month,
    user_id: str,
    given_back_as: GivenBackAs,
    *,
    reason: str,
    actor: Actor,
) -> tuple[int, int, str]:
    """Record what was given back of the user's invoice of `month` for.

    As a correction it counts for the rows that went, as far as these were charged, and no bill gives it back
    again; what a bill gave back before is charged with the next one. As goodwill it counts for no rows. It is
    about what was not answered yet; where nothing is open, it takes the place of what was said before.

    Returns:
        What was given back in all, how much of it counts as a correction, both before tax, and the currency.

    Raises:
        LedgerError: when nothing was given back, or, for a correction, no row went.
    """
    bill = bill_of_user(connection, month, user_id)
    back_cents = _back_cents(connection, bill) if bill and bill.state is not State.VOID else 0
    answers = _answers_about(connection, bill) if bill and bill.state is not State.VOID else []
    if bill is None or (back_cents <= 0 and not answers):
        raise LedgerError(
            f"Of user {user_id}'s invoice for {month}, nothing was given back.",
            remedy="The month is that of the invoice; `spell-billing explain` shows what is known of it.",
        )
    of_invoice = (user_id, str(month), bill.generation)
    before: dict[str, int] = {}
    for each in answers:
        before[each.usage_month] = before.get(each.usage_month, 0) + each.corrected_cents
    unanswered_cents = back_cents - answered_cents(answers)[of_invoice]
    gone = _gone(connection, bill)
    is_open = unanswered_cents > 0 and any(cents for _, cents in gone)
    left_cents = unanswered_cents if is_open else back_cents
    now = dict(before) if is_open else dict.fromkeys(before, 0)
    if given_back_as is GivenBackAs.CORRECTION:
        for of, gone_cents in gone:
            most_cents = gone_cents if is_open else before.get(of, 0) + gone_cents
            taken_cents = min(left_cents, most_cents)
            now[of], left_cents = now.get(of, 0) + taken_cents, left_cents - taken_cents
        if not any(now.values()):
            raise LedgerError(
                f"User {user_id}'s invoice for {month} charged for no row that was removed, and for no fee "
                "that is given back.",
                remedy="You will be asked about rows that are removed later.",
            )
    else:
        _write(connection, Answer(*of_invoice, bill.currency, unanswered_cents, 0, str(month)), reason, actor)
    for of in sorted(now):
        changed_cents = now[of] - before.get(of, 0)
        answered = max(0, min(changed_cents, unanswered_cents))
        _write(connection, Answer(*of_invoice, bill.currency, answered, changed_cents, of), reason, actor)
        unanswered_cents -= answered
    return back_cents, sum(now.values()), bill.currency


def _back_cents(connection: Connection, bill: Bill) -> int:
    if bill.stripe_invoice_id is None:
        return 0
    of = {bill.stripe_invoice_id: (bill.user_id, bill.month)}
    back = money_back(connection, of)[bill.stripe_invoice_id]
    return Invoice.of(bill, bill.parsed_lines).back_cents(back)


def charged_again(connection: Connection, bill: Bill) -> str | None:
    """Say what had gone back of an invoice that is void, beside what rows say; None where nothing had.

    The next invoice charges what rows say, and knows nothing of it.
    """
    if bill.state is not State.VOID or bill.reason is Reason.WRITTEN_OFF:
        return None
    corrected_cents = sum(each.corrected_cents for each in _answers_about(connection, bill))
    left_cents = _back_cents(connection, bill) - corrected_cents
    if left_cents <= 0:
        return None
    cents = Invoice.of(bill, bill.parsed_lines).at_stripe(left_cents)
    return (
        f"{format_money(cents, bill.currency, grouping=True)} had been given back of the invoice of user "
        f"{bill.user_id}, and the next one charges it again. If it was goodwill, give it once more when "
        f"that is sent: spell-billing credit --month {bill.month} --user {shlex.quote(bill.user_id)} "
        f"--cents {cents} --reason ..."
    )


def _answers_about(connection: Connection, bill: Bill) -> list[Answer]:
    about = (bill.user_id, bill.month, bill.generation)
    answers = read_answers(connection)
    return [each for each in answers if (each.user_id, each.month, each.generation) == about]


def rows_went_too(connection: Connection, month: str, user_id: str) -> str:
    """Return a sentence on rows, or fees, that went of what an invoice charged; empty where none did."""
    bill = bill_of_user(connection, month, user_id)
    gone = [each for each in _gone(connection, bill) if each[1]] if bill else []
    if bill is None or not gone:
        return ""
    is_fee = all(fees_month(of) for of, _ in gone)
    what, giver = ("Fees", "the bill of their month") if is_fee else ("Rows", "late usage")
    settle = f"`spell-billing settle --month {month} --user {shlex.quote(user_id)} --given-back"
    money = format_money(sum(cents for _, cents in gone), bill.currency, grouping=True)
    return (
        f"{what} that it had charged {money} for were removed as well, and {giver} gives that back: the "
        f"same money may go back twice. If both were meant, say so with {settle} goodwill`, otherwise "
        f"with {settle} correction`."
    )


def _gone(connection: Connection, bill: Bill) -> list[tuple[str, int]]:
    """Return what was charged for rows that went, by their months, of all that the bill charged for."""
    sums = late_sums(bill.parsed_lines)
    months = {bill.month, *(of for of, (cents, _) in sums.items() if cents > 0)}
    billed = read_billed(connection, AFTER_ALL, {(bill.user_id, of) for of in months})
    gone = [(of, each.gone_cents) for (_, of), each in sorted(billed.items())]
    fees = {line.usage_month for line in bill.parsed_lines if line.kind in FEES and line.amount_cents > 0}
    position = fees_held(connection, {(bill.user_id, of) for of in fees}, AFTER_ALL) if fees else Position()
    for (_, of), held in sorted(position.held.items()):
        # Until their month is drafted, nobody knows what the fees come to.
        if (own := position.own.get((bill.user_id, of))) is not None:
            gone.append((fees_key(of), held.gone_beyond(load_rating(own.rating, 0).fee_cents)))
    return gone


def _write(connection: Connection, answer: Answer, reason: str, actor: Actor) -> None:
    if not (answer.answered_cents or answer.corrected_cents):
        return
    cents = (answer.answered_cents, answer.corrected_cents)
    answered, corrected = (format_money(each, answer.currency, grouping=True) for each in cents)
    decision = Decision(
        month=answer.month,
        user_id=answer.user_id,
        kind=DecisionKind.GIVEN_BACK_SETTLED,
        content_hash=answer.content,
        reason=f"{reason} ({answered} of the invoice, {corrected} of it for {_words(answer.usage_month)})",
        actor=actor.name,
        at=datetime.now(UTC),
    )
    write_decision(connection, decision, actor)
