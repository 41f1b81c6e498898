"""What may be removed after its retention: nothing that proves a bill, or that late usage is compared with.

Of a month whose billing began, the pinned version of the frozen usage proves its bills; the others were
superseded before the first invoice. A message that went out is kept by its key, so that it is never sent
twice; its text is not needed any more.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from spell_billing.core.errors import IntegrityError, UsageError
from spell_billing.core.month import Month
from spell_billing.ledger.audit_trail import write_audit
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Actor
from spell_billing.ledger.schema import outbox
from spell_billing.usage.store import UsageStore

_FIRST = Month.parse("0002-01")
_NO_TEXT = "{}"
_WAIT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Superseded:
    """A frozen version that no bill was made of, beside the pinned one of its month."""

    month: Month
    version: str
    pinned: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Prunable:
    """What may be removed, and the months of which nothing is, with the reason."""

    before: Month
    versions: list[Superseded]
    messages: int
    messages_bytes: int
    left_alone: list[str]

    @property
    def size_bytes(self) -> int:
        """What there is to gain."""
        return sum(each.size_bytes for each in self.versions) + self.messages_bytes


def find_prunable(ledger: Ledger, store: UsageStore, before: Month) -> Prunable:
    """Look for what months before one may lose. Pinned versions are read whole, to see that they stand."""
    versions, left_alone = [], []
    for month, pinned in ledger.pinned_versions(since=_FIRST, before=before):
        others = [version for version in store.versions(month) if version != pinned]
        if not others:
            continue
        try:
            store.verify(store.version(month, pinned))
        except (UsageError, IntegrityError) as error:
            left_alone.append(f"{month}: {error.message}")
            continue
        versions += [
            Superseded(month, version, pinned, store.size_bytes(month, version)) for version in others
        ]
    size = sa.func.coalesce(sa.func.sum(sa.func.length(outbox.c.payload)), 0)
    with ledger.reading() as connection:
        query = sa.select(sa.func.count(), size).where(*_sent(before.start))
        messages, size_bytes = connection.execute(query).one()
    return Prunable(before, versions, messages, size_bytes, left_alone)


def prune(ledger: Ledger, store: UsageStore, found: Prunable, actor: Actor, now: datetime) -> None:
    """Remove what was found, each month with an entry in the audit trail."""
    with ledger.exclusive(wait_seconds=_WAIT_SECONDS):
        pinned = dict(ledger.pinned_versions(since=_FIRST, before=found.before))
        for month in sorted({each.month for each in found.versions}):
            of_month = [each for each in found.versions if each.month == month]
            if pinned.get(month) != of_month[0].pinned:
                continue
            removed = store.prune(month, keep={of_month[0].pinned}, newest=0)
            detail = f"superseded frozen versions {', '.join(removed)}; {of_month[0].pinned} stays"
            ledger.record_action(month, actor, "pruned", detail)
        if found.messages:
            entry = {"month": str(found.before), "action": "pruned", "detail": _messages(found.messages)}
            with ledger.writing() as connection:
                connection.execute(outbox.update().where(*_sent(found.before.start)).values(payload=_NO_TEXT))
                write_audit(connection, actor, now, entry)


def in_words(found: Prunable) -> Iterator[str]:
    """Give a line for each thing that may be removed, and for each that is left alone."""
    for each in found.versions:
        yield f"{each.month}: frozen version {each.version} ({each.size_bytes:,} bytes), not {each.pinned}"
    if found.messages:
        yield f"{_messages(found.messages)} ({found.messages_bytes:,} bytes)"
    yield from (f"left alone, {text}" for text in found.left_alone)


def _messages(number: int) -> str:
    return f"texts of alerts, mails and events that were sent: {number:,}"


def _sent(before: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    return outbox.c.sent_at < before, outbox.c.payload != _NO_TEXT
