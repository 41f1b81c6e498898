"""Follows runs to their ends and prints what matters of them."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from spell_billing.core.month import Month
from spell_billing.triggering import queries
from spell_billing.triggering.client import Server, TriggerError, growing_pauses, one_line
from spell_billing.triggering.dagster_side import one, runs_tagged, tags_of

ENDED = frozenset({"SUCCESS", "FAILURE", "CANCELED"})
BACKFILL_ENDED = frozenset({"COMPLETED", "COMPLETED_SUCCESS", "COMPLETED_FAILED", "FAILED", "CANCELED"})

_PARENT_TAG = "dagster/parent_run_id"
_BACKFILL_TAG = "dagster/backfill"
_WILL_RETRY_TAG = "dagster/will_retry"
_EVENTS_AT_ONCE = 500
_LONGEST_PAUSE_SECONDS = 10.0
_FAILED_USERS_SHOWN = 20
_QUIET = ("Created invoice ", "Further invoices are not listed", "Dependencies for step ")
_UNDONE_USER = ("Failed to bill user ", "Held back user ", "Not sent yet: user ")


@dataclass(slots=True)
class FollowedRun:
    """One run that is being followed, or the one that Dagster runs in its place after its worker died.

    It has ended when nothing more comes of it, no second try either.
    """

    month: Month
    id: str
    status: str = "QUEUED"
    problem: str | None = None
    has_ended: bool = False
    _cursor: str | None = None
    _started_ms: dict[str, int] = field(default_factory=dict)
    _failed_checks: dict[str, str] = field(default_factory=dict)
    _failed_users: int = 0
    _looked_after_failure: bool = False

    async def look(self, server: Server) -> bool:
        """Ask for what is new, print it, and return whether there was anything."""
        data = await server.ask(queries.NEWS, id=self.id, after=self._cursor, limit=_EVENTS_AT_ONCE)
        run = one({"run": data["runOrError"]}, "Run")
        log = one({"log": data["logsForRun"]}, "EventConnection")
        before, self.status = self.status, run["status"]
        self._cursor = log["cursor"]
        for event in log["events"]:
            self._read(event, server)
        if self.status in ENDED and not log["hasMore"]:
            await self._end(server, tags_of(run["tags"]), retriable=run["repositoryOrigin"] is not None)
        return bool(log["events"]) or self.status != before

    async def _end(self, server: Server, tags: dict[str, str], *, retriable: bool) -> None:
        # What a `bill` command ran in its own process, Dagster cannot run again, though it says that it will.
        if self.status != "FAILURE" or not retriable:
            self.has_ended = True
            return
        will_retry = tags.get(_WILL_RETRY_TAG)
        if will_retry == "true":
            again = await runs_tagged(server, _PARENT_TAG, self.id)
            if again:
                self._say(
                    server, f"run {self.id} died; Dagster tries again: {server.address}/runs/{again[0].id}"
                )
                self.id, self.status, self.problem = again[0].id, again[0].status, None
                self._cursor = None
            return
        # Dagster notes whether it tries again a moment after the failure.
        self.has_ended = will_retry is not None or self._looked_after_failure
        self._looked_after_failure = True

    def _read(self, event: dict[str, Any], server: Server) -> None:
        kind, step = event["__typename"], str(event.get("stepKey"))
        message = one_line(event.get("message") or "")
        if kind == "ExecutionStepStartEvent":
            self._started_ms[step] = int(event["timestamp"])
        elif kind == "ExecutionStepSuccessEvent":
            seconds = (int(event["timestamp"]) - self._started_ms.get(step, int(event["timestamp"]))) / 1000
            self._say(server, f"{step}: done in {seconds:.1f} s")
        elif kind == "ExecutionStepFailureEvent":
            # The check that failed before it gives a better reason than the step.
            reason = self._failed_checks.get(step)
            self.problem = self.problem or reason or _why(event)
            self._say(server, f"{step}: FAILED" if reason else f"{step}: FAILED: {_why(event)}")
        elif kind == "AssetCheckEvaluationEvent" and not event["evaluation"]["success"]:
            check = event["evaluation"]
            words = f"{check['checkName']}: {one_line(check['description'] or 'did not pass')}"
            self._failed_checks[step] = words
            self._say(server, f"check failed: {words}")
        elif kind in {"RunFailureEvent", "RunCanceledEvent"}:
            self.problem = self.problem or message or "it ended without a word"
        elif kind == "LogMessageEvent":
            self._read_line(message, event["level"], server)

    def _read_line(self, message: str, level: str, server: Server) -> None:
        if message.startswith(_UNDONE_USER):
            self._failed_users += 1
            if self._failed_users == _FAILED_USERS_SHOWN + 1:
                self._say(server, "Further users are not listed here; `spell-billing invoices` has them all")
            if self._failed_users > _FAILED_USERS_SHOWN:
                return
        if level != "DEBUG" and not message.startswith(_QUIET):
            self._say(server, message)

    def _say(self, server: Server, words: str) -> None:
        server.say(f"{self.month}  {words}")


async def follow(
    server: Server, runs: Iterable[FollowedRun], backfill_id: str | None = None
) -> list[FollowedRun]:
    """Follow runs, and a backfill with the runs that it launches, until all have ended, and return the runs.

    Raises:
        TriggerError: when the backfill itself fails, or the server refuses to answer.
    """
    followed = {run.month: run for run in runs}
    pauses = growing_pauses(_LONGEST_PAUSE_SECONDS)
    while True:
        backfill = await _look_at_backfill(server, backfill_id, followed) if backfill_id else None
        news = [await run.look(server) for run in followed.values() if not run.has_ended]
        if any(news):
            pauses = growing_pauses(_LONGEST_PAUSE_SECONDS)
        launching = backfill is not None and backfill["status"] not in BACKFILL_ENDED
        if not launching and all(run.has_ended for run in followed.values()):
            break
        await asyncio.sleep(next(pauses))
    if backfill is not None and backfill["status"] in {"FAILED", "CANCELED"}:
        why = one_line((backfill["error"] or {}).get("message") or backfill["status"].lower())
        raise TriggerError(
            f"Backfill {backfill_id} ended early: {why}",
            remedy=f"See {server.address}/runs/b/{backfill_id}; what it began is safe to bill again.",
        )
    return list(followed.values())


async def _look_at_backfill(
    server: Server, backfill_id: str, followed: dict[Month, FollowedRun]
) -> dict[str, Any]:
    """Return a backfill, and begin to follow the runs that it has launched since the last look."""
    backfill = one(await server.ask(queries.BACKFILL_STATUS, id=backfill_id), "PartitionBackfill")
    for run in await runs_tagged(server, _BACKFILL_TAG, backfill_id):
        # A second try has the tag too: it is found through the run that died.
        if run.month is not None and run.month not in followed and _PARENT_TAG not in run.tags:
            followed[run.month] = FollowedRun(run.month, run.id)
            server.say(f"{run.month}  run {server.address}/runs/{run.id}")
    return backfill


def _why(event: dict[str, Any]) -> str:
    description = (event.get("failureMetadata") or {}).get("description")
    error = event.get("error") or {}
    cause = (error.get("cause") or {}).get("message")
    return one_line(description or cause or error.get("message") or "it gives no reason")
