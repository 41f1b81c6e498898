"""What an operator corrects after a month was sent: `void`, `credit`, `settle`."""

import asyncio
import sys
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import click

from spell_billing.alerts.alert import users
from spell_billing.cli.common import (
    EXIT_USERS_LEFT,
    CentsType,
    actor,
    month_option,
    open_ledger,
    reason_option,
    say,
    stripe_account,
    user_option,
)
from spell_billing.core.money import format_money
from spell_billing.core.month import Month
from spell_billing.core.outcomes import INVOICED, State
from spell_billing.ledger.ledger import Ledger

if TYPE_CHECKING:
    from spell_billing.payments.credit import Credited


_everybody = click.option("--everybody", is_flag=True, help="Every user of the month, one after the other.")
_of_user = click.option("--user", "user_id", metavar="ID", help="The platform's user; or give --everybody.")
_VOIDABLE = (INVOICED - {State.PAID}) | {State.PARKED}


def _require_whom(user_id: str | None, *, everybody: bool) -> None:
    if (user_id is None) is not everybody:
        raise click.UsageError("Say whose: --user ID, or --everybody.")


def _end(refused: Sequence[str]) -> None:
    """Name who was refused, and end with `EXIT_USERS_LEFT` where somebody was."""
    for each in refused:
        say(f"Left as it is: {each}")
    if refused:
        sys.exit(EXIT_USERS_LEFT)


@click.command("void")
@month_option(required=True)
@_of_user
@_everybody
@reason_option()
@click.option("--for-good", is_flag=True, help="Do not bill the user again for this month.")
def void(month: Month, user_id: str | None, reason: str, *, everybody: bool, for_good: bool) -> None:
    """Void one user's invoice at Stripe and in the ledger, or with --everybody all that are not paid.

    The next `bill` of the month bills the user again, as a new generation, unless --for-good. Refused where
    that would leave two invoices, or where the invoice is paid. Safe to repeat. With --everybody it ends with
    3 when invoices are left, as the paid ones are.
    """
    from spell_billing.invoicing.gateway import Gateway  # noqa: PLC0415 - heavy: the SDK
    from spell_billing.invoicing.given_back import charged_again  # noqa: PLC0415
    from spell_billing.invoicing.settle import for_each, users_in, void_bill  # noqa: PLC0415
    from spell_billing.ledger.rows import Bill  # noqa: PLC0415

    _require_whom(user_id, everybody=everybody)
    stripe = stripe_account()
    with open_ledger() as ledger, ledger.session(month, actor(), on_wait=click.echo) as session:

        async def work(gateway: Gateway) -> tuple[list[Bill], list[str]]:
            def act(user: str) -> Awaitable[Bill]:
                return void_bill(session, gateway, user, reason, for_good=for_good)

            if user_id is not None:
                return [await act(user_id)], []
            return await for_each(ledger.read(users_in, month, _VOIDABLE), act)

        voided, refused = stripe.work(ledger, work)
        paid = ledger.read(users_in, month, [State.PAID]) if everybody else []
        again = [words for bill in voided if (words := ledger.read(charged_again, bill))]
    for bill in voided:
        say(f"Invoice {bill.stripe_invoice_id} of user {bill.user_id} for {month} is void.")
    for words in again:
        say(words)
    if voided and not for_good:
        say("The next bill charges what the rows say by then. If they are wrong, correct them first.")
        say(f"To bill again: spell-billing bill --month {month}")
    if paid:
        back = f"spell-billing credit --month {month} --everybody --all --reason ..."
        refused.append(f"{users(len(paid))} paid, and a paid invoice is given back: {back}")
    _end(refused)


@click.command("credit")
@month_option(required=True)
@_of_user
@_everybody
@click.option("--cents", type=CentsType(), metavar="N", help="How much, in minor units: 500 for $5.00.")
@click.option("--all", "everything", is_flag=True, help="All of the invoice that has not gone back yet.")
@reason_option("Why: for the audit trail, the credit note and the mail to the user.")
@click.option(
    "--to",
    type=click.Choice(["card", "balance"]),
    default="card",
    show_default=True,
    help="Where the money of a paid invoice goes: back to the card, or to the customer's next invoices.",
)
def credit(
    month: Month,
    user_id: str | None,
    cents: int | None,
    reason: str,
    to: str,
    *,
    everybody: bool,
    everything: bool,
) -> None:
    """Give back some or all of one user's invoice, by a credit note at Stripe, exactly once.

    Before the payment it lowers what is due; after it, it refunds the card or credits the customer's balance.
    Safe to repeat: the same amount with the same reason is one credit. The user is not billed again for it.
    With --everybody it gives back every invoice of the month, and ends with 3 when some are left.
    """
    from spell_billing.invoicing.gateway import Gateway  # noqa: PLC0415
    from spell_billing.invoicing.settle import for_each, users_in  # noqa: PLC0415
    from spell_billing.payments.credit import Credited, credit_bill  # noqa: PLC0415 - heavy: the SDK
    from spell_billing.payments.money_back import read_again  # noqa: PLC0415

    if (cents is None) is not everything:
        raise click.UsageError("Say how much: --cents N, or --all.")
    _require_whom(user_id, everybody=everybody)
    stripe = stripe_account()
    with open_ledger() as ledger:

        async def work(gateway: Gateway) -> tuple[list[tuple[str, Credited]], list[str]]:
            async def act(user: str) -> tuple[str, Credited]:
                given = await credit_bill(
                    session, gateway, user, cents, reason.strip(), ledger=ledger, to_balance=to == "balance"
                )
                return user, given

            with ledger.session(month, actor(), on_wait=click.echo) as session:
                if user_id is not None:
                    credited, refused = [await act(user_id)], list[str]()
                else:
                    credited, refused = await for_each(ledger.read(users_in, month, INVOICED), act)
            for _, each in credited:
                await read_again(ledger, gateway, each.note.stripe_invoice_id)
            return credited, refused

        credited, refused = stripe.work(ledger, work)
        for user, each in credited:
            _say_credited(ledger, month, user, each)
    _end(refused)


def _say_credited(ledger: Ledger, month: Month, user_id: str, credited: "Credited") -> None:
    from spell_billing.invoicing.given_back import rows_went_too  # noqa: PLC0415
    from spell_billing.ledger.credit_notes import CreditKind  # noqa: PLC0415
    from spell_billing.payments.credit import nothing_done  # noqa: PLC0415

    note, is_new = credited
    currency = ledger.bills_of_user(month, user_id)[-1].currency
    what = {
        CreditKind.REDUCE: "lowers what is due",
        CreditKind.REFUND: "is refunded to the card",
        CreditKind.BALANCE: "is credited to the customer's balance",
    }[note.kind]
    if not is_new:
        say(nothing_done(note, currency))
    say(
        f"Credit note {note.credit_note_id} of invoice {note.stripe_invoice_id} ({user_id}, {month}): "
        f"{format_money(note.cents, currency, grouping=True)} {what}."
    )
    with ledger.reading() as connection:
        too = rows_went_too(connection, str(month), user_id)
    if too:
        say(too)


@click.command("settle")
@month_option(required=True)
@user_option
@click.option(
    "--as",
    "settled_as",
    type=click.Choice(["billed-by-hand", "written-off"]),
    help="Billed by hand: the user was charged elsewhere. Written off: nothing is charged.",
)
@click.option(
    "--credit",
    "currency",
    metavar="CURRENCY",
    help="Settle the user's credit in this currency instead, as when the account changed to another one.",
)
@click.option(
    "--given-back",
    "given_back_as",
    type=click.Choice(["correction", "goodwill"]),
    help="Say what money of the month's invoice was given back for: rows that were removed, or goodwill.",
)
@reason_option()
def settle(
    month: Month,
    user_id: str,
    settled_as: str | None,
    currency: str | None,
    *,
    given_back_as: str | None,
    reason: str,
) -> None:
    """Close one user's bill that has no invoice: failed, held, parked, or voided to be billed again.

    Refused while an invoice of it stands at Stripe. Safe to repeat. With --credit, record that a credit was
    given back by hand, so that it no longer holds the user's bills.

    With --given-back, say why money of the month's invoice was given back, by a credit note, a refund or a
    dispute. As a correction it is not given back once more for rows that were removed; as goodwill it stands
    beside whatever the rows say. Another answer replaces the one before.
    """
    if sum(each is not None for each in (settled_as, currency, given_back_as)) != 1:
        raise click.UsageError("Give one of --as, --credit and --given-back.")
    if given_back_as is not None:
        _settle_given_back(month, user_id, given_back_as, reason)
    elif currency is not None:
        _settle_credit(month, user_id, currency.lower(), reason)
    else:
        _settle_bill(month, user_id, str(settled_as), reason)


def _settle_credit(month: Month, user_id: str, currency: str, reason: str) -> None:
    from spell_billing.ledger.credits import settle_credit  # noqa: PLC0415 - heavy: SQLAlchemy

    with (
        open_ledger() as ledger,
        ledger.exclusive(on_wait=click.echo),
        ledger.writing() as connection,
    ):
        settled = settle_credit(connection, month, user_id, currency, reason=reason, actor=actor())
    money = format_money(settled.amount_cents, settled.currency, grouping=True)
    if settled.amount_cents:
        say(f"The credit of {money} of user {user_id} is settled.")
    else:
        say(f"Nothing is left of the credit of user {user_id} in {currency}: it was settled before.")
    say(f"Next, for bills it held: spell-billing bill --month {month}")


def _settle_given_back(month: Month, user_id: str, given_back_as: str, reason: str) -> None:
    from spell_billing.invoicing.given_back import (  # noqa: PLC0415 - heavy: SQLAlchemy
        GivenBackAs,
        settle_given_back,
    )

    with (
        open_ledger() as ledger,
        ledger.exclusive(on_wait=click.echo),
        ledger.writing() as connection,
    ):
        given_back = GivenBackAs(given_back_as)
        back_cents, corrected_cents, currency = settle_given_back(
            connection, month, user_id, given_back, reason=reason, actor=actor()
        )
    back, corrected = (
        format_money(cents, currency, grouping=True) for cents in (back_cents, corrected_cents)
    )
    say(
        f"Of {back} given back of user {user_id}'s invoice for {month}, {corrected} counts for rows that "
        "went."
    )
    say("Next, for a bill it held: `spell-billing bill` of that bill's month.")


def _settle_bill(month: Month, user_id: str, settled_as: str, reason: str) -> None:
    from spell_billing.invoicing.settle import SettledAs, settle_bill  # noqa: PLC0415 - heavy: the SDK
    from spell_billing.orchestration.resources import StripeResource  # noqa: PLC0415

    with open_ledger() as ledger, ledger.session(month, actor(), on_wait=click.echo) as session:
        # Stripe is asked only where the bill may have an invoice.
        connect = partial(StripeResource().connect, ledger)
        asyncio.run(settle_bill(session, connect, user_id, SettledAs(settled_as), reason))
    say(f"The bill of user {user_id} for {month} is settled: {settled_as.replace('-', ' ')}.")
