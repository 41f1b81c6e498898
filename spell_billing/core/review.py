"""What is so unlike the past of a month that a person must look before it is sent.

Pure rules over sums that `invoicing/review_month.py` gathers; what they find holds the whole month.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any

from spell_billing.core.money import format_amounts, format_money, round_half_up
from spell_billing.core.past import PastChange

NAMED = 3
"""How many users, or pairs of them, a finding names."""

_OVERTAKING = timedelta(days=1)
"""The months of one backfill may overtake each other; a later month that started long ago is none of it."""

ALIKE_PERCENT = 5
"""From this share of a month's users on, ids that are an account's, only written otherwise, are a
mistake of the platform's. Fewer may be people who chose similar names."""


class Code(StrEnum):
    """What a finding is about, for programs."""

    PAST_CHANGED = "past_changed"
    USERS_MOVED = "users_moved"
    BILLED_BEFORE = "billed_before"
    MONTH_EMPTY = "month_empty"
    BEFORE_FIRST_MONTH = "before_first_month"
    MONTH_NOT_PLAUSIBLE = "month_not_plausible"
    NO_ACCOUNTS = "no_accounts"
    IDS_DIFFER = "ids_differ"
    SUBSCRIPTIONS_GONE = "subscriptions_gone"
    PRICES_GONE = "prices_gone"
    CALLS_UNPRICED = "calls_unpriced"
    PLANS_MISSING = "plans_missing"
    TERMS_GONE = "terms_gone"
    SMALL_AMOUNTS = "small_amounts"
    BALANCE_LEFT_BEHIND = "balance_left_behind"
    DECISIONS_LOST = "decisions_lost"
    PAST_NOT_COMPARED = "past_not_compared"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a person must look at: a sentence with the numbers, and the numbers for programs."""

    code: Code
    text: str
    data: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the finding as the ledger keeps it."""
        return {"code": self.code.value, "text": self.text, "data": dict(self.data)}


@dataclass(frozen=True, slots=True)
class ReviewRules:
    """From where on a month is reviewed by a person."""

    past_percent: int = 5
    down_percent: int = 50
    up_percent: int = 200
    floor_cents: int = 10_000


@dataclass(frozen=True, slots=True)
class MonthTotals:
    """A month in numbers: users with a bill, calls, and what is charged by currency, in minor units."""

    month: str
    users: int
    calls: int
    cents: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Coverage:
    """Who owes something and how much, and who of these has no account, or one without Stripe customer.

    `alike` are users without an account whose id is an account's, only written otherwise; `examples` are some
    of them, each with the account's id.
    """

    users: int
    cents: int
    without: int
    cents_without: int
    alike: int = 0
    examples: Sequence[tuple[str, str]] = ()


def past_findings(changes: Sequence[PastChange], rules: ReviewRules) -> list[Finding]:
    """Find billed months whose usage is not what was billed any more, far beyond what comes late.

    Losses and gains count apart: as much lost as gained is two changes, not none.
    """
    found = []
    for change in changes:
        percent = rules.past_percent
        parts = []
        if change.users_lost * 100 > percent * change.users:
            parts.append(
                f"{change.users_lost:,} of {change.users:,} users have lost rows"
                f"{_share(change.users_lost, change.users)}"
            )
        for currency, amounts in sorted(change.amounts.items()):
            billed = _money(amounts.billed_cents, currency)
            for words, cents in (("is gone", amounts.lost_cents), ("was added", amounts.gained_cents)):
                if cents * 100 > percent * abs(amounts.billed_cents):
                    share = _share(cents, amounts.billed_cents)
                    parts.append(f"{_money(cents, currency)} of {billed} {words}{share}")
        if parts:
            text = (
                f"{change.month} is no longer what was billed: {'; '.join(parts)}. "
                "Check whether rows were deleted, or this is another usage database."
            )
            rounded = {
                currency: {name: round_half_up(cents) for name, cents in asdict(amounts).items()}
                for currency, amounts in sorted(change.amounts.items())
            }
            found.append(Finding(Code.PAST_CHANGED, text, asdict(change) | {"amounts": rounded}))
    return found


def copy_findings(month: str, count: int, ids: Sequence[str], *, than: str) -> list[Finding]:
    """Find rows that the month before, `than`, seems to have been billed for as well."""
    if not count:
        return []
    text = (
        f"{than} and {month} have rows with the same id, user and cost, within a day: id {some(ids, count)}. "
        f"They may be one call that was written twice: then delete the copies in {month}, and bill it again. "
        "If they are calls of their own, approve."
    )
    return [Finding(Code.BILLED_BEFORE, text, {"rows": count, "before": than})]


def month_findings(
    current: MonthTotals, previous: Sequence[MonthTotals], rules: ReviewRules
) -> list[Finding]:
    """Find whether a month is far from the mean of up to three billed months before it, the newest first."""
    if not previous:
        return [] if current.calls or not any(current.cents.values()) else [_charged_without_usage(current)]
    data = {"current": asdict(current), "previous": [asdict(each) for each in previous]}
    if not current.calls and previous[0].calls:
        text = (
            f"{current.month} has no row of usage; {previous[0].month} had {previous[0].calls:,}. "
            "Check that this is the right usage database, and that it is complete."
        )
        return [Finding(Code.MONTH_EMPTY, text, data)]
    number = len(previous)
    amounts = {
        name: (current.cents.get(name, 0), sum(each.cents.get(name, 0) for each in previous))
        for name in sorted({*current.cents, *(name for each in previous for name in each.cents)})
    }
    matters = {
        name: (value, total)
        for name, (value, total) in amounts.items()
        if abs(value * number - total) > rules.floor_cents * number
    }
    if not matters:
        return []
    counts = {name: sum(getattr(each, name) for each in previous) for name in ("users", "calls")}
    parts = [
        f"{name} {getattr(current, name):,} where {_mean(total, number):,} are usual"
        for name, total in counts.items()
        if _is_far(getattr(current, name), total, number, rules)
    ]
    parts += [
        f"{_money(value, name)} where {_money(_mean(total, number), name)} is usual"
        for name, (value, total) in matters.items()
        if _is_far(value, total, number, rules)
    ]
    if not parts:
        return []
    of = "the billed month before" if number == 1 else f"the mean of the {number} billed months before"
    text = f"{current.month} is far from {of}: {'; '.join(parts)}."
    return [Finding(Code.MONTH_NOT_PLAUSIBLE, text, data)]


def _charged_without_usage(current: MonthTotals) -> Finding:
    text = (
        f"{current.month} has no row of usage, and no month before it was billed: it would charge "
        f"{in_users(current.users)} fees of {format_amounts(current.cents)}. Check that this is the month "
        "you meant, and the right usage database."
    )
    return Finding(Code.MONTH_EMPTY, text, {"current": asdict(current), "previous": []})


def first_month_findings(
    current: MonthTotals, first: tuple[str, datetime] | None, now: datetime
) -> list[Finding]:
    """Find whether a month is earlier than all that were billed: most likely another system billed it.

    `first` is the earliest month that was billed, and when its billing started; None where there is none.
    """
    if first is None or first[0] <= current.month or now - first[1] < _OVERTAKING:
        return []
    month, started_at = first
    text = (
        f"{current.month} is before the first month that was billed here: {month}, on {started_at:%Y-%m-%d}. "
        f"It would charge {in_users(current.users)} {format_amounts(current.cents)}. If that is wrong, or "
        f"was billed elsewhere, set SPELL_BILLING_FIRST_MONTH={month}."
    )
    return [Finding(Code.BEFORE_FIRST_MONTH, text, {"current": asdict(current), "first": month})]


def account_findings(coverage: Coverage) -> list[Finding]:
    """Find whether nobody, or not even half of the usage, can be billed for want of accounts.

    One user without an account is a failure of that user, be it the largest: the others are billed.
    """
    found = []
    data = asdict(coverage)
    if coverage.alike and coverage.alike * 100 >= ALIKE_PERCENT * coverage.users:
        # As code: a space at the end shows, and letters that only look alike.
        named = ", ".join(f"{user!a} and {account!a}" for user, account in coverage.examples[:NAMED])
        text = (
            f"{in_users(coverage.alike)} of {coverage.users:,} would have an account if case, spaces, "
            f"punctuation, leading zeros and the encoding of letters did not count: {named}. "
            "Write the ids the same way in usage_counters and billing_accounts."
        )
        found.append(Finding(Code.IDS_DIFFER, text, data))
    nobody = coverage.without == coverage.users
    most = 2 * coverage.cents_without > coverage.cents
    explained = bool(found) and 2 * coverage.alike >= coverage.without
    if coverage.without > 1 and (nobody or most) and not explained:
        who = (
            f"None of {coverage.users:,} users has"
            if nobody
            else f"{coverage.without:,} of {coverage.users:,} users, who owe more than half, do not have"
        )
        text = (
            f"{who} a billing account with a Stripe customer. "
            "Check that billing_accounts is complete, and has the user ids of usage_counters."
        )
        found.append(Finding(Code.NO_ACCOUNTS, text, data))
    return found


def _is_far(value: int, total: int, number: int, rules: ReviewRules) -> bool:
    """Return whether a value is far from the mean of `number` values that sum to `total`."""
    if total <= 0:
        return False
    scaled = value * number * 100
    return scaled < total * (100 - rules.down_percent) or scaled > total * (100 + rules.up_percent)


def _mean(total: int, number: int) -> int:
    return round_half_up(Decimal(total) / number)


def _share(part: Decimal | int, whole: Decimal | int) -> str:
    return f" ({round_half_up(Decimal(part) * 100 / Decimal(whole)):,}%)" if whole > 0 else ""


def _money(cents: Decimal | int, currency: str) -> str:
    return format_money(round_half_up(Decimal(cents)), currency, grouping=True)


def some(names: Sequence[str], number: int | None = None) -> str:
    """Return the first names, and how many more there are; `number` of all, where not all are given."""
    return ", ".join(names[:NAMED]) + and_more(len(names) if number is None else number)


def and_more(number: int) -> str:
    """Return how many more there are than are named; empty where all are."""
    return f" and {number - NAMED:,} more" if number > NAMED else ""


def in_users(number: int) -> str:
    """Return how many users, as `1 user`."""
    return "1 user" if number == 1 else f"{number:,} users"
