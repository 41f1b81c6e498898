"""`spell-billing prune`: remove what is past its retention."""

from datetime import UTC, datetime

import click

from spell_billing.cli.common import actor, open_ledger, say
from spell_billing.core.month import Month

_KEPT_MONTHS = 13
"""Late usage is looked for twelve months back."""


@click.command("prune")
@click.option(
    "--keep-months",
    metavar="N",
    type=click.IntRange(_KEPT_MONTHS, 1200),
    default=_KEPT_MONTHS,
    show_default=True,
    help="Touch nothing of this many months before the present one.",
)
@click.option("--yes", is_flag=True, help="Remove it; without this, only say what would be removed.")
def prune(keep_months: int, *, yes: bool) -> None:
    """Remove what is past its retention, and say how many bytes that is; without --yes, only say so.

    That is frozen usage that was superseded before its month was billed, and the texts of messages that were
    sent. What proves a bill stays: pinned versions, bills, payments, the audit trail.
    """
    from spell_billing.invoicing import pruning  # noqa: PLC0415 - heavy: SQLAlchemy
    from spell_billing.settings.billing import Settings  # noqa: PLC0415
    from spell_billing.usage.store import open_usage_store  # noqa: PLC0415

    now = datetime.now(UTC)
    before = Month.containing(now).plus(-keep_months)
    store = open_usage_store(Settings.from_environment().usage_store)
    with open_ledger() as ledger:
        found = pruning.find_prunable(ledger, store, before)
        for line in pruning.in_words(found):
            say(line)
        if yes:
            pruning.prune(ledger, store, found, actor(), now)
    if not found.size_bytes:
        say(f"Nothing of the months before {before} is past its retention.")
    elif yes:
        say(f"Removed: {found.size_bytes:,} bytes.")
    else:
        say(f"{found.size_bytes:,} bytes would be removed. Repeat the command with --yes to do so.")
