"""Gathers what the rules of a month's review look at, from the frozen usage and the ledger."""

from collections.abc import Callable, Iterator
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy.engine import Connection

from spell_billing.core.errors import UsageError
from spell_billing.core.month import Month
from spell_billing.core.outcomes import Reason
from spell_billing.core.past import (
    Changed,
    Differences,
    Move,
    PastAmounts,
    PastChange,
    merges,
    net_differences,
    pair_moves,
    possible_moves,
    sum_changes,
    without_moves,
)
from spell_billing.core.review import ALIKE_PERCENT, NAMED, Coverage, MonthTotals
from spell_billing.ledger.history import pinned_versions
from spell_billing.ledger.moves import read_heirs
from spell_billing.ledger.rows import MonthRecord
from spell_billing.ledger.totals import (
    Charged,
    calls_of,
    last_approved,
    other_currencies,
    usage_by_currency,
    users_without,
)
from spell_billing.usage.contract import FrozenUsage
from spell_billing.usage.store import UsageStore

_WITHOUT = frozenset({Reason.NO_BILLING_ACCOUNT, Reason.NO_STRIPE_CUSTOMER})


def totals_of(record: MonthRecord, bills: list[Charged]) -> MonthTotals:
    """Return a month in numbers."""
    cents: dict[str, int] = {}
    for each in bills:
        cents[each.currency] = cents.get(each.currency, 0) + each.cents
    return MonthTotals(record.month, record.users, record.calls, cents)


def past_of(
    connection: Connection, store: UsageStore, frozen: FrozenUsage
) -> tuple[list[PastChange], list[Move]]:
    """Say what became of the billed months that the frozen version found changed, since they were billed.

    What earlier months found counts too, up to the last that a person approved: a loss that comes in small
    parts is one loss, and what was approved is not reviewed again.
    """
    late = frozen.manifest.late
    if late is None:
        return [], []
    months = {str(one.month) for one in late.months}
    heir_of = read_heirs(connection).heir_of
    newest = list(_rows(frozen, months))
    moves = _moves(connection, net_differences(newest, heir_of))
    earlier = [
        row for version in _earlier(connection, store, frozen, months) for row in _rows(version, months)
    ]
    differences = without_moves(net_differences([*newest, *earlier], heir_of), moves)
    billed = {month: _billed(connection, month) for month in sorted(months)}
    currencies = {
        (month, user): currency
        for month, change in billed.items()
        if len(change.amounts) > 1
        for user, currency in other_currencies(connection, month, next(iter(change.amounts))).items()
    }
    return sum_changes(differences, billed, currencies), moves


def coverage_of(
    connection: Connection, month: Month, bills: list[Charged], accounts: Callable[[], pa.Table]
) -> Coverage:
    """Say whether those who owe something have accounts; `accounts` is called only where many have none."""
    without = [each for each in bills if each.reason in _WITHOUT]
    users, users_lacking = (sum(each.users for each in group) for group in (bills, without))
    alike: list[tuple[str, str]] = []
    if users_lacking * 100 >= ALIKE_PERCENT * users > 0:
        lacking = users_without(connection, month, Reason.NO_BILLING_ACCOUNT)
        if lacking:
            named = {_plain(account): account for account in accounts()["user_id"].to_pylist()}
            alike = [(user, named[_plain(user)]) for user in lacking if _plain(user) in named]
    return Coverage(
        users=users,
        cents=sum(each.cents for each in bills),
        without=users_lacking,
        cents_without=sum(each.cents for each in without),
        alike=len(alike),
        examples=alike[:NAMED],
    )


def _earlier(
    connection: Connection, store: UsageStore, frozen: FrozenUsage, months: set[str]
) -> Iterator[FrozenUsage]:
    """Return the versions of billed months that found these months changed, and nobody approved."""
    since = max(min(months), last_approved(connection, frozen.month))
    for month, version in pinned_versions(connection, since=Month.parse(since).next(), before=frozen.month):
        try:
            yield store.version(month, version)
        except UsageError:
            # Its evidence is lost, as the freeze has said: what it found cannot be counted.
            continue


def _rows(version: FrozenUsage, months: set[str]) -> Iterator[Changed]:
    if version.manifest.late is None:
        return
    with pq.ParquetFile(version.directory / version.manifest.late.file.name) as file:
        columns = file.read(["usage_month", "user_id", "calls", "cost_cents"])
    texts = columns["cost_cents"].cast(pa.string())
    names = (columns[name].to_pylist() for name in ("usage_month", "user_id", "calls"))
    for month, user, calls, cents in zip(*names, texts.to_pylist(), strict=True):
        if month in months:
            yield month, user, calls, Decimal(cents)


def _moves(connection: Connection, differences: Differences) -> list[Move]:
    """Pair those who lost all that a month billed them for with those who gained exactly that."""
    losers: dict[str, set[str]] = {}
    for (month, user), each in differences.items():
        if each.calls < 0:
            losers.setdefault(month, set()).add(user)
    gained = {month for (month, _), each in differences.items() if each.calls > 0}
    billed = {month: calls_of(connection, month, users) for month, users in losers.items() if month in gained}

    def lost_all(month: str, user: str) -> bool:
        return month in billed and -differences[month, user].calls >= billed[month].get(user, 0)

    candidates = possible_moves(differences)
    pairs = pair_moves({key: winners for key, winners in candidates.items() if lost_all(*key)})
    return [*pairs, *merges(without_moves(differences, pairs), lost_all)]


def _billed(connection: Connection, month: str) -> PastChange:
    sums = usage_by_currency(connection, Month.parse(month))
    amounts = {currency: PastAmounts(usage_cents) for currency, (_, usage_cents) in sums.items()}
    return PastChange(month, sum(users for users, _ in sums.values()), amounts=amounts)


def _plain(user_id: str) -> str:
    return user_id.casefold().replace("-", "")
