"""Bills a month, or a range of months, on a server: starts it, follows it, and says how it ended."""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

from spell_billing.core.errors import MonthError
from spell_billing.core.money import format_money
from spell_billing.core.month import Month
from spell_billing.triggering.client import Server, one_line
from spell_billing.triggering.dagster_side import find_job, launch_backfill, launch_run, runs_under_way
from spell_billing.triggering.following import FollowedRun, follow

_STATES_LEFT = ("failed", "held", "parked", "pending")


class Ending(IntEnum):
    """How it ended, as the exit code that says so; `bill` has the same."""

    DONE = 0
    DID_NOT_RUN = 1
    USERS_LEFT = 3


_WORST_FIRST = (Ending.DID_NOT_RUN, Ending.USERS_LEFT, Ending.DONE)


async def bill(
    server: Server,
    months: Sequence[Month],
    *,
    actor: str,
    wait: bool,
    verify: bool = False,
    as_backfill: bool = False,
) -> Ending:
    """Bill months: leave out what is billed, follow what runs already, and start the rest.

    Args:
        server: Where.
        months: In order; with none, the last one that is closed by the server's clock.
        actor: Who asks, for the run's tags and the audit trail.
        wait: Follow all of it to its end.
        verify: Start a run even where all is billed; it asks Stripe what stands.
        as_backfill: Start the rest as one backfill; without, it is one month.

    Raises:
        MonthError: when the server may not bill one of the months.
        TriggerError: when it refuses, or does not answer.
    """
    job = await find_job(server)
    months = months or [job.months[-1]]
    refused = ", ".join(str(month) for month in months if month not in job.months)
    if refused:
        raise MonthError(
            f"The server does not bill {refused}: it bills {job.months[0]} to {job.months[-1]}.",
            remedy="Choose a month that is closed, from the server's SPELL_BILLING_FIRST_MONTH on.",
        )
    running: list[FollowedRun] = []
    left: list[Month] = []
    for month in months:
        runs = await runs_under_way(server, month)
        if runs:
            # The first of several: the later ones wait for it.
            running.append(FollowedRun(month, runs[-1].id))
            link = f"{server.address}/runs/{runs[-1].id}"
            server.say(f"{month}  has a run in progress, no other is started: {link}")
        elif not verify and (await server.month(month)).get("state") == "billed":
            server.say(f"{month}  is already billed: there is nothing to do.")
        else:
            left.append(month)
    if not left and not running:
        return Ending.DONE
    backfill_id = None
    if left and as_backfill:
        backfill_id = await launch_backfill(server, job, left, actor=actor)
        server.say(f"Launched one backfill of {len(left)} months: {server.address}/runs/b/{backfill_id}")
    elif left:
        run = FollowedRun(left[0], await launch_run(server, job, left[0], actor=actor, verify=verify))
        server.say(f"{run.month}  launched: {server.address}/runs/{run.id}")
        running.append(run)
    if not wait:
        return Ending.DONE
    # From here on only the end of the given time ends the waiting: the server may be restarted meanwhile.
    server.patience_seconds = None
    by_month = {run.month: run for run in await follow(server, running, backfill_id)}
    if as_backfill:
        server.say("")
    endings = [await _ending(server, month, by_month.get(month)) for month in months]
    return next(ending for ending in _WORST_FIRST if ending in endings)


async def _ending(server: Server, month: Month, run: FollowedRun | None) -> Ending:
    """Say how a month ended, by its run and the server's ledger."""
    if run is not None and run.status != "SUCCESS":
        why = run.problem or "the server's log says why"
        server.say(f"{month}  the run ended with {run.status.lower()}: {why}")
        return Ending.DID_NOT_RUN
    status = await server.month(month)
    for line in outcome_lines(month, status):
        server.say(line)
    if status.get("state") == "billed":
        return Ending.DONE
    return Ending.USERS_LEFT if status.get("state") in {"partial", "in_review"} else Ending.DID_NOT_RUN


def outcome_lines(month: Month, status: Mapping[str, Any]) -> list[str]:
    """Put a month's status of `GET /admin/billing/months/2026-10` into words."""
    money = ""
    if len(status.get("currencies", [])) == 1:
        money = f" ({format_money(status['invoiced_cents'], status['currencies'][0], grouping=True)})"
    left = sum(status.get(name, 0) for name in _STATES_LEFT)
    total = (
        f"{month}  {status.get('state')}: {status.get('invoiced', 0):,} users invoiced{money}, "
        f"{left:,} left without an invoice, {status.get('skipped', 0):,} skipped"
    )
    lines = [total]
    if status.get("state") == "in_review":
        words = f"What was found: spell-billing status --month {month}. If it is right: spell-billing approve"
        lines.append(f'{month}  Nothing was sent. {words} --month {month} --reason "..."')
    for each in status.get("reasons", []):
        if each["state"] in _STATES_LEFT:
            users = ", ".join(each["first_users"])
            more = ", ..." if each["users"] > len(each["first_users"]) else ""
            words = f"{each['users']:,} {each['state']} ({each['reason']}): {users}{more}. {each['remedy']}"
            lines.append(f"{month}  {one_line(words)}")
    return lines
