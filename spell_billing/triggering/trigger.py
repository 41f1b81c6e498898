"""Bills a month, or a range of months, on a server: starts it, follows it, and says how it ended."""

import asyncio
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

from spell_billing.core.errors import MonthError
from spell_billing.core.money import format_money
from spell_billing.core.month import Month
from spell_billing.triggering.client import Server
from spell_billing.triggering.dagster_side import (
    Place,
    billable_months,
    find_place,
    launch_backfill,
    launch_run,
    runs_under_way,
)
from spell_billing.triggering.following import FollowedRun, follow, follow_backfill
from spell_billing.triggering.words import one_line

_STATES_LEFT = ("failed", "held", "parked", "pending")


class Ending(IntEnum):
    """How it ended, as the exit code that says so; `bill` has the same."""

    DONE = 0
    DID_NOT_RUN = 1
    USERS_LEFT = 3


_WORST_FIRST = (Ending.DID_NOT_RUN, Ending.USERS_LEFT, Ending.DONE)


async def bill_month(server: Server, month: Month | None, *, actor: str, verify: bool, wait: bool) -> Ending:
    """Bill one month: follow the run that does it already, or start one.

    Args:
        server: Where.
        month: None for the last one that is closed by the server's clock.
        actor: Who asks, for the run's tags and the audit trail.
        verify: Start a run even where all is billed; it asks Stripe what stands.
        wait: Follow the run to its end.

    Raises:
        MonthError: when the server may not bill the month.
        TriggerError: when it refuses, or does not answer.
    """
    place = await find_place(server)
    months = await billable_months(server, place)
    month = month or months[-1]
    _require_billable([month], months)
    run = await _run_under_way(server, month)
    if run is None:
        if not verify and await _is_billed(server, month):
            server.say(f"{month}  is billed already: nothing is to be done.")
            return Ending.DONE
        run = FollowedRun(month, await launch_run(server, place, month, actor=actor, verify=verify))
        server.say(f"{month}  launched: {server.address}/runs/{run.id}")
    if not wait:
        return Ending.DONE
    # From here on only the end of the given time ends the waiting: the server may be restarted meanwhile.
    server.patience_seconds = None
    await follow(server, [run])
    return await _ending(server, month, run)


async def bill_months(server: Server, months: Sequence[Month], *, actor: str, wait: bool) -> Ending:
    """Bill a range of months by one backfill; what is billed is left out, what runs already is followed.

    Args:
        server: Where.
        months: In order.
        actor: Who asks.
        wait: Follow the backfill to its end.

    Raises:
        MonthError: when the server may not bill one of the months.
        TriggerError: when it refuses, or does not answer.
    """
    place = await find_place(server)
    _require_billable(months, await billable_months(server, place))
    running: list[FollowedRun] = []
    left: list[Month] = []
    for month in months:
        run = await _run_under_way(server, month)
        if run is not None:
            running.append(run)
        elif await _is_billed(server, month):
            server.say(f"{month}  is billed already.")
        else:
            left.append(month)
    if not left and not running:
        server.say("Every month of the range is billed: nothing is to be done.")
        return Ending.DONE
    runs = await _run_backfill(server, place, left, running, actor=actor, wait=wait)
    if not wait:
        return Ending.DONE
    server.say("")
    by_month = {run.month: run for run in runs}
    endings = [await _ending(server, month, by_month.get(month)) for month in months]
    return next(ending for ending in _WORST_FIRST if ending in endings)


async def _run_backfill(
    server: Server, place: Place, left: Sequence[Month], running: list[FollowedRun], *, actor: str, wait: bool
) -> list[FollowedRun]:
    backfill_id = None
    if left:
        backfill_id = await launch_backfill(server, place, left, actor=actor)
        server.say(f"Launched one backfill of {len(left)} months: {server.address}/runs/b/{backfill_id}")
    if not wait:
        return []
    # From here on only the end of the given time ends the waiting: the server may be restarted meanwhile.
    server.patience_seconds = None
    if backfill_id is None:
        await follow(server, running)
        return running
    begun, _ = await asyncio.gather(follow_backfill(server, backfill_id), follow(server, running))
    return [*begun, *running]


async def _run_under_way(server: Server, month: Month) -> FollowedRun | None:
    runs = await runs_under_way(server, month)
    if not runs:
        return None
    # The first of several: the later ones wait for it.
    run = FollowedRun(month, runs[-1].id)
    server.say(f"{month}  has a run under way, no other is started: {server.address}/runs/{run.id}")
    return run


async def _is_billed(server: Server, month: Month) -> bool:
    status = await server.patiently(lambda: server.month(month))
    return bool(status.get("state") == "billed")


async def _ending(server: Server, month: Month, run: FollowedRun | None) -> Ending:
    """Say how a month ended, by its run and the server's ledger."""
    if run is not None and run.status != "SUCCESS":
        why = run.problem or "the server's log says why"
        server.say(f"{month}  the run ended with {run.status.lower()}: {why}")
        return Ending.DID_NOT_RUN
    status = await server.patiently(lambda: server.month(month))
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


def _require_billable(months: Sequence[Month], billable: Sequence[Month]) -> None:
    refused = [month for month in months if month not in billable]
    if refused:
        named = ", ".join(map(str, refused))
        raise MonthError(
            f"The server does not bill {named}: it bills {billable[0]} to {billable[-1]}.",
            remedy="Choose a month that is closed, from the server's SPELL_BILLING_FIRST_MONTH on.",
        )
