"""What is done to the ledger as a whole: `init-db`, `events`, `forget-rehearsal`."""

from contextlib import ExitStack
from datetime import UTC, datetime

import click

from spell_billing.cli.common import actor, fail, open_ledger, say

_SHOWN = 100


@click.command("init-db")
def init_db() -> None:
    """Make the ledger's tables, or bring them up to date. Safe to repeat."""
    from spell_billing.ledger.lock import require_sessions  # noqa: PLC0415 - heavy: SQLAlchemy
    from spell_billing.ledger.migrate import migrate  # noqa: PLC0415
    from spell_billing.settings.billing import Settings  # noqa: PLC0415
    from spell_billing.settings.databases import create_engine_for, database_errors, unreachable  # noqa: PLC0415

    url = Settings.from_environment().database
    with database_errors(url):
        if url.sqlite_path is not None:
            try:
                url.sqlite_path.parent.mkdir(parents=True, exist_ok=True)
                url.sqlite_path.touch()
            except OSError as error:
                raise unreachable(url, str(error.strerror)) from error
            if not url.sqlite_path.is_file():
                raise unreachable(url, "it is not a file")
        engine = create_engine_for(url)
        try:
            require_sessions(url, engine)
            changed = migrate(engine)
        finally:
            engine.dispose()
    say(f"The ledger in {url} is {'now' if changed else 'already'} up to date.")


@click.command("events")
@click.option("--again", is_flag=True, help="Handle them again, as after an upgrade.")
def events(*, again: bool) -> None:
    """List Stripe events that were set aside because they could not be read.

    All other events are handled. With --again the next tick of the sensor `payments` tries them once more.
    """
    from spell_billing.ledger.events import SET_ASIDE, events_kept, handle_again  # noqa: PLC0415 - heavy: SQLAlchemy

    with open_ledger() as ledger:
        found = ledger.read(events_kept, SET_ASIDE, _SHOWN)
        for event in found:
            say(f"{event.event_id}  {event.type}  {event.created_at:%Y-%m-%d %H:%M} UTC  {event.way}")
        if not found:
            say("No event is set aside.")
        elif again:
            number = ledger.write(handle_again)
            say(f"{number:,} wait to be handled again.")


@click.command("forget-rehearsal")
@click.option("--yes", is_flag=True, help="Remove it; without this, only say what would be removed.")
def forget_rehearsal(*, yes: bool) -> None:
    """Remove the bills, payments and reports of a rehearsal in Stripe's test mode from the ledger.

    Nothing of a live account is ever removed. The audit trail, grants and the frozen usage stay. Afterwards
    the ledger takes the account of the next key, and bills from scratch.
    """
    from spell_billing.ledger import stripe_account  # noqa: PLC0415 - heavy: SQLAlchemy
    from spell_billing.ledger.grants import read_ledger_grants  # noqa: PLC0415

    with open_ledger() as ledger:
        with ledger.reading() as connection:
            account = stripe_account.require_rehearsal(connection)
            bills = stripe_account.count_bills(connection)
        if not yes:
            fail(f"{bills:,} bills of {account} would be removed. Repeat the command with --yes to do so.")
        with ExitStack() as held:
            # Nobody drafts, bills, follows payments or mails meanwhile.
            for what in ("drafting", "payments", "mail", *(record.month for record in ledger.months())):
                held.enter_context(ledger.exclusive(what, wait_seconds=0))
            removed = ledger.write(stripe_account.forget_rehearsal, actor(), datetime.now(UTC))
            with ledger.reading() as connection:
                left = len(read_ledger_grants(connection))
        say(f"{removed:,} bills of {account} are removed; the audit trail and the frozen usage stay.")
        if left:
            say(
                f"{left:,} grants stay, with nothing used, and pay for bills from now on: list them with "
                "`spell-billing grants`, and take back those of the rehearsal with `revoke-grant`."
            )
        say("Next: set STRIPE_API_KEY to the key to bill with, then run spell-billing bill.")
