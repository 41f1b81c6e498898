"""Which frozen version of a month counts: the pinned one once billing has started, else the newest."""

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from spell_billing.core.errors import UsageError
from spell_billing.core.late import LATE_USAGE_MONTHS, NOTHING, Usage
from spell_billing.core.money import plain
from spell_billing.core.month import Month
from spell_billing.ledger.cursors import begin_redrafting, end_redrafting
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.nothing_made import starts_over
from spell_billing.ledger.rows import Actor
from spell_billing.ledger.session import MonthSession
from spell_billing.usage.contract import Past, UsageSource
from spell_billing.usage.frozen import FrozenUsage, Totals
from spell_billing.usage.store import UsageStore
from spell_billing.usage.version_names import supplement_name

_OLDEST, _LAST = Month.parse("0002-01"), Month.parse("9998-12")


def pinned_version(ledger: Ledger, store: UsageStore, month: Month) -> FrozenUsage | None:
    """Return the version that the month is billed from; None while billing has not started.

    A version that the store does not have is a UsageError.
    """
    record = ledger.month(month)
    if record is None or record.billing_started_at is None:
        return None
    return store.version(month, record.usage_version)


def start_over(ledger: Ledger, month: Month, actor: Actor, on_wait: Callable[[str], None]) -> bool:
    """Undo the pin of a month of which its runs made nothing at Stripe; return whether there was one."""
    if not ledger.read(starts_over, month):
        return False
    with (
        ledger.session(month, actor, on_wait=on_wait, drafting=True) as session,
        ledger.exclusive(on_wait=on_wait),
    ):
        return session.starts_over() and session.take_back_start()


def version_to_draft(ledger: Ledger, store: UsageStore, month: Month) -> FrozenUsage:
    """Return the version that drafts are made from; a UsageError where it is not in the store."""
    frozen = pinned_version(ledger, store, month) or store.latest(month)
    if frozen is None:
        raise UsageError(
            f"The usage of {month} is not frozen yet.", remedy="Materialize raw_usage of the month first."
        )
    return frozen


def version_before(ledger: Ledger, store: UsageStore, month: Month) -> FrozenUsage | None:
    """Return the version of the newest month billed before; None where there is none, or it is lost."""
    pinned = ledger.pinned_versions(since=_OLDEST, before=month)
    found, _ = _versions(ledger, store, since=pinned[-1][0], before=month) if pinned else ([], [])
    return found[0] if found else None


def past_of(ledger: Ledger, store: UsageStore, month: Month) -> Past:
    """Return the first billed month, and the billed rows of months that are not compared.

    Of these, the year before the compared one is counted for every month, and each older year in its turn.
    """
    pinned = ledger.pinned_versions(since=_OLDEST, before=month)
    first = min([month, *(earlier for earlier, _ in pinned)])
    until = month.plus(-LATE_USAGE_MONTHS)
    billed = _billed_rows(ledger, store, until)
    older_years = -(-_months_between(first, until.plus(-LATE_USAGE_MONTHS)) // LATE_USAGE_MONTHS)
    if older_years > 0:
        turn = 1 + _months_between(_OLDEST, month) % older_years
        billed |= _billed_rows(ledger, store, until.plus(-LATE_USAGE_MONTHS * turn))
    return Past(first, tuple(billed.items()))


def _billed_rows(ledger: Ledger, store: UsageStore, until: Month) -> dict[Month, int]:
    """Count the billed rows of each month of the year before one: frozen, or later recorded as late."""
    since, last = until.plus(-LATE_USAGE_MONTHS), until.plus(LATE_USAGE_MONTHS)
    versions, _ = _versions(ledger, store, since=since, before=last)
    billed = {one.month: one.manifest.frozen.calls for one in versions if one.month < until}
    for one in versions:
        for each in (one, *one.supplements):
            for item in each.manifest.late.months if each.manifest.late else ():
                if item.month in billed:
                    billed[item.month] += item.totals.calls
    return billed


def _months_between(first: Month, last: Month) -> int:
    return 12 * (last.year - first.year) + last.month - first.month


def earlier_versions(
    ledger: Ledger, store: UsageStore, month: Month
) -> tuple[list[FrozenUsage], dict[str, str]]:
    """Return earlier billed months' frozen versions, for late usage.

    And by month, in words, why others cannot be compared: files are lost, or the ledger lacks bills. None
    when a later month is billed already: its version holds what was late for earlier months, and what came
    since is for the next month in the order of time. A difference is billed once.

    Raises:
        UsageError: when the store has other usage of a month than it was billed from.
    """
    if ledger.pinned_versions(since=month.next(), before=_LAST):
        return [], {}
    since, comparable = month.plus(-LATE_USAGE_MONTHS), []
    found, missing = _versions(ledger, store, since=since, before=month)
    told = ledger.told_of_own_month(since=since, before=month) if found else {}
    for version in found:
        _require_billed_from(ledger, version)
        apart = _apart_from_bills(version, told.get(str(version.month), NOTHING))
        if apart is None:
            comparable.append(version)
        else:
            missing[str(version.month)] = apart
    return comparable, missing


def _apart_from_bills(version: FrozenUsage, told: Usage) -> str | None:
    """Return in words how bills and store differ about what came since the freeze; None where they agree."""
    recorded = [NOTHING]
    for each in version.supplements:
        months = each.manifest.late.months if each.manifest.late else ()
        sums = (Usage(item.totals.calls, item.totals.cost_cents) for item in months)
        recorded.append(sum(sums, start=recorded[-1]))
    *before, now = recorded
    if now == told:
        return None
    name = f"{version.month}/{version.version}"
    if told in before:
        verify = f"spell-billing bill --month {version.month} --verify"
        remedy = f"The ledger is older than they are: run {verify}."
    else:
        remedy = f"Restore {name}/{supplement_name(len(recorded))} from a backup of the store."
    return (
        f"Since {name} was frozen, {told.calls:,} calls of {plain(told.cents)} cents came according to its "
        f"bills, and {now.calls:,} of {plain(now.cents)} cents according to the usage store. {remedy}"
    )


def _require_billed_from(ledger: Ledger, version: FrozenUsage) -> None:
    """Refuse a version that has the name of the one that was billed, and other sums: of another store."""
    record, frozen = ledger.month(version.month), version.manifest.frozen
    if record is None:
        return
    # With rate cards, the ledger knows what the rows were priced at, not what they say.
    cents = record.usage_cents if version.manifest.rates is None else frozen.cost_cents
    if frozen != Totals(record.calls, cents):
        raise UsageError(
            f"Frozen usage {version.month}/{version.version} is not what {version.month} was billed from: "
            f"it has {frozen.calls:,} calls of {plain(frozen.cost_cents)} cents, the ledger {record.calls:,} "
            f"calls of {plain(cents)} cents.",
            remedy="Nothing was frozen. Check that SPELL_BILLING_USAGE_STORE is this ledger's store: with "
            "another one, or one restored from an earlier time, late usage would be charged twice.",
        )


def with_what_came_since(
    ledger: Ledger, session: MonthSession, store: UsageStore, source: UsageSource, frozen: FrozenUsage
) -> tuple[FrozenUsage, dict[str, str]]:
    """Record what users who wait for their bill have in the month now beyond what was recorded.

    Their bill was never sent: it charges what the source says when it is drafted again. To be called where
    nothing else is drafted, nor its billing started, before the drafts are brought up to date. Returns the
    version to draft from, and by month why a version is lost: where one is, nothing is compared, because what
    it recorded could be charged twice.

    Raises:
        UsageError: the source cannot be billed from.
        IntegrityError: a frozen file was altered.
    """
    if not session.has_begun():
        return frozen, {}
    waiting = {bill.user_id for bill in session.bills_to_redraft()}
    if not waiting:
        return frozen, {}
    recorded, missing = _versions(ledger, store, since=session.month, before=_LAST)
    if missing:
        return frozen, missing
    begun_here = session.write(begin_redrafting, session.month)
    try:
        return store.supplement(source, frozen, recorded, waiting), {}
    except Exception:
        now = store.version(frozen.month, frozen.version)
        if begun_here and len(now.supplements) == len(frozen.supplements):
            session.write(end_redrafting, session.month)
        raise


def with_scratch_supplement(
    ledger: Ledger,
    store: UsageStore,
    source: UsageSource,
    frozen: FrozenUsage,
    *,
    users: Collection[str],
    directory: Path,
) -> FrozenUsage:
    """Return the version with what users have beyond it now, kept in a directory and not in the store."""
    recorded, missing = _versions(ledger, store, since=frozen.month, before=_LAST)
    late = None if missing else source.supplement(frozen, directory, recorded=recorded, users=users)
    if late is None:
        return frozen
    since = FrozenUsage(frozen.month, "preview", directory, replace(frozen.manifest, files=(), late=late))
    return replace(frozen, supplements=(*frozen.supplements, since))


def pinned_since(ledger: Ledger, store: UsageStore, month: Month) -> list[FrozenUsage]:
    """Return the pinned versions of a month and all later ones; those that are lost are left out."""
    return _versions(ledger, store, since=month, before=_LAST)[0]


def _versions(
    ledger: Ledger, store: UsageStore, *, since: Month, before: Month
) -> tuple[list[FrozenUsage], dict[str, str]]:
    found, missing = [], {}
    for month, version in ledger.pinned_versions(since=since, before=before):
        try:
            found.append(store.version(month, version))
        except UsageError as error:
            missing[str(month)] = str(error)
    return found, missing
