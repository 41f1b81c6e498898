"""`spell-billing trigger`: start billing on a server from elsewhere, as from CI, and follow it."""

import asyncio
import os
import sys

import click

from spell_billing.cli.common import MonthType, fail, person
from spell_billing.core.errors import MonthError, SettingsError
from spell_billing.core.month import Month
from spell_billing.triggering.client import Server, secret_from, server_address
from spell_billing.triggering.trigger import Ending, bill

LONGEST_SECONDS = 12 * 3600
"""Dagster ends a billing run after that time: see spell_billing/orchestration/jobs.py."""

PATIENCE_SECONDS = 30.0
"""How long to wait for a first answer, as while the server restarts. Following a run has its own end."""

_MOST_MONTHS = 120


def _range(_: click.Context, __: click.Parameter, text: str | None) -> list[Month] | None:
    if text is None:
        return None
    first, dots, last = text.partition("..")
    try:
        begin, end = Month.parse(first), Month.parse(last)
    except MonthError as error:
        raise click.BadParameter(str(error) if dots else "Write it as 2026-01..2026-06.") from None
    if end < begin:
        raise click.BadParameter(f"{end} precedes {begin}: write the earlier month first.")
    if end > begin.plus(_MOST_MONTHS - 1):
        raise click.BadParameter(f"The range has more than {_MOST_MONTHS} months.")
    return begin.through(end)


def _address(_: click.Context, __: click.Parameter, text: str) -> str:
    try:
        return server_address(text)
    except SettingsError as error:
        raise click.BadParameter(str(error)) from None


@click.command("trigger")
@click.option("--month", type=MonthType(), help="The month, as 2026-10. Default: the last closed one.")
@click.option(
    "--backfill",
    metavar="YYYY-MM..YYYY-MM",
    callback=_range,
    help="A range of months, as 2026-01..2026-06, in one backfill.",
)
@click.option(
    "--url",
    metavar="ADDRESS",
    callback=_address,
    required=True,
    envvar="API_URL",
    help="Where `spell-billing serve` is. Default: API_URL of the environment.",
)
@click.option(
    "--wait",
    is_flag=True,
    help="Wait for the run to finish. Without --wait, exit code 0 only means it was started.",
)
@click.option(
    "--timeout-seconds",
    metavar="SECONDS",
    type=click.IntRange(min=1),
    default=LONGEST_SECONDS,
    show_default=True,
    help="Stop waiting after this many seconds. The run itself continues.",
)
@click.option("--verify", is_flag=True, help="Ask Stripe what stands even when every user is done.")
def command(
    *,
    month: Month | None,
    backfill: list[Month] | None,
    url: str,
    wait: bool,
    timeout_seconds: int,
    verify: bool,
) -> None:
    """Start billing on a server, and follow it. Authenticates with ADMIN_SECRET from the environment.

    Attaches to a run already in progress; does nothing if the month is billed. Exit codes as of `bill`: 0
    everyone is billed, 3 users are left without an invoice, 1 it could not run or failed, 2 wrong usage.
    """
    if backfill is not None and (month is not None or verify):
        raise click.UsageError("--backfill goes with neither --month nor --verify.")
    months = backfill or ([month] if month else [])
    secret = secret_from(os.environ)

    async def follow() -> Ending:
        async with (
            asyncio.timeout(timeout_seconds),
            Server.open(url, secret, click.echo, patience_seconds=PATIENCE_SECONDS) as server,
        ):
            return await bill(
                server,
                months,
                actor=f"trigger {person()}",
                wait=wait,
                verify=verify,
                as_backfill=backfill is not None,
            )

    try:
        ending = asyncio.run(follow())
    except TimeoutError:
        fail(
            f"Not finished within {timeout_seconds} s; the run continues. "
            "Run the same command to follow it again."
        )
    sys.exit(ending)
