"""`spell-billing forget-rehearsal`: remove what was billed in Stripe's test mode."""

from contextlib import ExitStack
from datetime import UTC, datetime

import click

from spell_billing.cli.common import clear_errors, fail, person


@click.command("forget-rehearsal")
@click.option("--yes", is_flag=True, help="Remove it; without, only say what would be removed.")
def command(*, yes: bool) -> None:
    """Remove the bills, payments and reports of a rehearsal in Stripe's test mode from the ledger.

    Nothing of a live account is ever removed. The audit trail and the frozen usage stay. Afterwards the
    ledger takes the account of the next key, and bills from scratch.
    """
    from spell_billing.ledger.ledger import Ledger  # noqa: PLC0415 - heavy: SQLAlchemy
    from spell_billing.ledger.rows import Actor  # noqa: PLC0415
    from spell_billing.ledger.stripe_account import (  # noqa: PLC0415
        count_bills,
        forget_rehearsal,
        require_rehearsal,
    )
    from spell_billing.settings.billing import Settings  # noqa: PLC0415

    with clear_errors(), Ledger(Settings.from_environment().database) as ledger:
        with ledger.reading() as connection:
            account, bills = require_rehearsal(connection), count_bills(connection)
        if not yes:
            fail(f"{bills:,} bills of {account} would be removed. Repeat the command with --yes to do so.")
        actor = Actor(person())
        with ExitStack() as held:
            # Nobody drafts, bills, follows payments or mails meanwhile.
            for what in ("drafting", "payments", "mail"):
                held.enter_context(ledger.exclusive(what, wait_seconds=0))
            for record in ledger.months():
                held.enter_context(ledger.exclusive(record.month, wait_seconds=0))
            with ledger.writing() as connection:
                removed = forget_rehearsal(connection, actor, datetime.now(UTC))
        click.echo(f"{removed:,} bills of {account} are removed; the audit trail and the frozen usage stay.")
        click.echo("Next: set STRIPE_API_KEY to the key to bill with, then run spell-billing bill.")
