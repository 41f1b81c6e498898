"""What happens to a user's id: `move-user`, `erase-user`."""

from datetime import UTC, datetime

import click

from spell_billing.cli.common import UserType, actor, open_ledger, reason_option, say, stripe_account
from spell_billing.core.month import Month

_MONTHS_BACK = 12
"""How far back `move-user` looks for usage of the users."""

_WAIT_SECONDS = 10.0
"""How long `erase-user` waits for a freeze that is under way."""


@click.command("move-user")
@click.option("--from", "from_user", metavar="ID", required=True, help="Whose usage it was.")
@click.option("--to", "to_user", type=UserType(), help="Whose usage it is now.")
@click.option("--undo", is_flag=True, help="Nothing moved: take the recorded move of --from back.")
@reason_option()
def move_user(from_user: str, to_user: str | None, reason: str, *, undo: bool) -> None:
    """Record that usage moved from one user to another: a new id, or two users that became one.

    What the one lost and the other gained in months that are billed is then neither charged nor given back.
    Credits of the first go to the second. Safe to repeat; to correct the target, record the right one.
    """
    if (to_user is None) is not undo:
        raise click.UsageError("say either whose usage it is now (--to), or that nothing moved (--undo)")
    from spell_billing.ledger.moves import record_move, record_undo  # noqa: PLC0415 - heavy: SQLAlchemy
    from spell_billing.settings.billing import Settings  # noqa: PLC0415
    from spell_billing.usage.source import is_at_platform, open_usage_source  # noqa: PLC0415

    now = datetime.now(UTC)
    if to_user is None:
        with open_ledger() as ledger, ledger.writing() as connection:
            was = record_undo(connection, from_user, reason=reason, actor=actor(), now=now)
        say(f"Usage of user {from_user} did not move to {was}: each keeps their own usage and credits.")
        return
    source = open_usage_source(Settings.from_environment().usage_database)
    since = Month.containing(now).plus(-_MONTHS_BACK)
    with open_ledger() as ledger, ledger.writing() as connection:
        recorded = record_move(
            connection,
            from_user,
            to_user,
            reason=reason,
            actor=actor(),
            now=now,
            has_usage=lambda user_id: is_at_platform(source, user_id, since=since, now=now),
        )
    if recorded:
        say(f"Usage of user {from_user} moved to {to_user}: late usage of both is netted from now on.")
    else:
        say(f"Already recorded: usage of user {from_user} moved to {to_user}.")


@click.command("erase-user")
@click.argument("user_id")
@click.option(
    "--as",
    "known_as",
    help="The pseudonym the user got before, when an older ledger was restored.",
)
def erase_user(user_id: str, known_as: str | None) -> None:
    """Replace the id of user USER_ID by a random pseudonym in ledger, mail, frozen files and at Stripe.

    Every amount stays. Refused while something of the user is open, or the platform still has the user. If it
    is interrupted, run it again: until then nothing is billed.
    """
    from spell_billing.invoicing.erase_user import erasing  # noqa: PLC0415 - heavy: the SDK
    from spell_billing.reporting.finance import remove_naming  # noqa: PLC0415
    from spell_billing.settings.billing import Settings  # noqa: PLC0415
    from spell_billing.usage.erasing import items_naming  # noqa: PLC0415
    from spell_billing.usage.source import is_at_platform, open_usage_source  # noqa: PLC0415
    from spell_billing.usage.store import open_usage_store  # noqa: PLC0415

    settings = Settings.from_environment()
    stripe = stripe_account()
    source = open_usage_source(settings.usage_database)
    now = datetime.now(UTC)
    store = open_usage_store(settings.usage_store, lock_timeout_seconds=_WAIT_SECONDS)
    with (
        open_ledger() as ledger,
        erasing(
            ledger,
            store,
            user_id,
            at_platform=lambda since: is_at_platform(source, user_id, since=since, now=now),
            now=now,
            known_as=known_as,
        ) as work,
    ):
        if work.is_at_stripe:
            stripe.work(ledger, work.at_stripe)
        work.in_frozen_usage(now)
        items = items_naming(store, user_id)
        removed = remove_naming(user_id, settings.exports)
        work.in_ledger(actor(), now)
    say(
        f"User {user_id} is {work.erasure.pseudonym} from now on: in the ledger, on {work.invoices} invoices "
        f"at Stripe and in {work.versions} frozen versions. No amount has changed."
    )
    if removed:
        months = ", ".join(removed)
        say(f"The files for finance named the user, and were removed: `export` {months} again.")
    if items:
        named = ", ".join(items)
        say(
            f"Items of usage hold the id, and stay as the invoices have them: {named}. Let the platform "
            "write items without users' ids."
        )
