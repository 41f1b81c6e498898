"""What an operator decides before a month is sent: `approve`, `hold`, `release`."""

import shlex
import sys
from collections.abc import Callable
from typing import Any

import click

from spell_billing.cli.common import (
    EXIT_USERS_LEFT,
    UserType,
    actor,
    month_option,
    open_ledger,
    reason_option,
    say,
)
from spell_billing.core.month import Month


@click.command("approve")
@month_option(required=True)
@reason_option()
def approve(month: Month, reason: str) -> None:
    """Approve a month that is in review, so that the next `bill` sends it.

    The approval holds for the drafts that were reviewed alone: if rows, accounts or plans change before they
    are sent, the month is reviewed again. With APPROVALS=2 another person must approve it as well; until then
    it ends with 3.
    """
    from spell_billing.invoicing import review  # noqa: PLC0415 - heavy: SQLAlchemy

    with open_ledger() as ledger:
        approved = review.approve(ledger, month, actor(), reason)
    for finding in approved.findings:
        say(f"  - {finding['text']}")
    if approved.approvals_missing:
        given = ", ".join(each.actor for each in approved.approvals)
        say(f"{month} needs the approval of {approved.approvals_needed} people. Approved by: {given}.")
        say("Nothing is sent until another person approves it as well.")
        sys.exit(EXIT_USERS_LEFT)
    say(f"{month} is approved as it was reviewed.")
    say(f"Next: spell-billing bill --month {month}")


def _of_one_or_all(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return the options `--user` and `--all`, of which `_decide` wants one, and a reason."""
    everybody = click.option("--all", "everybody", is_flag=True, help="Every bill of the month.")
    one = click.option("--user", "user_id", type=UserType(), help="The platform's user.")
    return one(everybody(reason_option(default="no reason given")(command)))


def _decide(
    decide: Callable[..., Any], month: Month, user_id: str | None, reason: str, *, everybody: bool
) -> Any:
    """Decide on one user's bill or on all, and return what came of it."""
    if (user_id is not None) == everybody:
        raise click.UsageError("Give either --user or --all.")
    with open_ledger() as ledger:
        return decide(ledger, month, actor(), reason, user_id)


@click.command("hold")
@month_option(required=True)
@_of_one_or_all
def hold(month: Month, user_id: str | None, reason: str, *, everybody: bool) -> None:
    """Hold one user's bill of a drafted month, or everybody's, until `release`. What was sent stays sent."""
    from spell_billing.invoicing import review  # noqa: PLC0415 - heavy: SQLAlchemy

    decided = _decide(review.hold, month, user_id, reason, everybody=everybody)
    if user_id is not None:
        say(f"The bill of user {user_id} for {month} is held.")
    else:
        say(f"{_bills(decided.bills)} of {month} {_are(decided.bills)} held, and those drafted from now on.")
        one, more = "was held before, and keeps its reason", "were held before, and keep their reason"
        _others(decided.others, month, one, more)
    whose = "--all" if user_id is None else f"--user {shlex.quote(user_id)}"
    say(f"To send {'it' if user_id else 'them'}: spell-billing release --month {month} {whose}")


@click.command("release")
@month_option(required=True)
@_of_one_or_all
def release(month: Month, user_id: str | None, reason: str, *, everybody: bool) -> None:
    """Release one user's held bill, or many, as they are now; the next `bill` sends them.

    They are sent as they were drafted: if rows of the month changed since, run `bill` first, which drafts
    held bills again.

    --all takes back `hold --all`: what that held is released, and what is held for a reason of its own is
    named and stays held. Where no `hold --all` is in force, it releases what is held as not plausible. A bill
    that is drafted again with other content needs a new release.
    """
    from spell_billing.invoicing import review  # noqa: PLC0415 - heavy: SQLAlchemy

    decided = _decide(review.release, month, user_id, reason, everybody=everybody)
    if user_id is not None:
        say(f"The bill of user {user_id} for {month} is released.")
    else:
        say(f"{_bills(decided.bills)} of {month} {_are(decided.bills)} released.")
        _others(decided.others, month, *(f"{word} held for a reason of {whose} own" for word, whose in _STAY))
    say(f"Next: spell-billing bill --month {month}")


def _bills(number: int) -> str:
    return "1 bill" if number == 1 else f"{number:,} bills"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


_STAY = (("stays", "its"), ("stay", "their"))


def _others(others: Any, month: Month, one: str, more: str) -> None:
    from spell_billing.invoicing.review import named  # noqa: PLC0415 - heavy: SQLAlchemy

    if others:
        say(f"{_bills(len(others))} {one if len(others) == 1 else more}: {named(others)}.")
        say(f"To send one of these: spell-billing release --month {month} --user ID")
