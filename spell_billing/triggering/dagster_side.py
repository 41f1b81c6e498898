"""What the server's Dagster knows of billing, and starting it there: months, runs, a launch, a backfill."""

import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spell_billing.core.errors import MonthError
from spell_billing.core.month import Month
from spell_billing.triggering import queries
from spell_billing.triggering.client import Server, ServerLostError, TriggerError, one_line

JOB = "monthly_billing"
PARTITION_TAG = "dagster/partition"
ACTOR_TAG = "spell_billing/actor"
TRIGGER_TAG = "spell_billing/trigger"
"""Names one of our calls: a launch whose answer was lost is found by it."""

_INVOICES_ASSET = "stripe_invoices"
_ASSETS_ALONE = "__ASSET_JOB"
_UNDER_WAY = ("NOT_STARTED", "QUEUED", "STARTING", "STARTED", "CANCELING")
_MOST_RUNS = 500
_TRIES = 3
_REMEDIES = {
    "UnauthorizedError": "This server only reads; use the address of the one that runs without --read-only.",
    "PipelineNotFoundError": "The server's code location did not load: see Deployment in its Dagster pages.",
    "PartitionKeysNotFoundError": "Choose closed months, from the server's SPELL_BILLING_FIRST_MONTH on.",
    "PartitionSetNotFoundError": "Use the spell-billing of the server's version.",
    "RunConfigValidationInvalid": "Use the spell-billing of the server's version.",
    "RunConflict": "Try again.",
    "RunNotFoundError": "The run was deleted from Dagster; the ledger still knows what was billed.",
}


@dataclass(frozen=True, slots=True)
class Job:
    """The billing job's place on a server, as GraphQL takes it, and the months it may bill, oldest first."""

    place: Mapping[str, str]
    months: Sequence[Month]


@dataclass(frozen=True, slots=True)
class RunSeen:
    """A run as the server shows it."""

    id: str
    status: str
    tags: Mapping[str, str]

    @property
    def month(self) -> Month | None:
        """The month that it bills; None when it has none."""
        try:
            return Month.from_partition_key(self.tags.get(PARTITION_TAG, ""))
        except MonthError:
            return None


async def find_job(server: Server) -> Job:
    """Find the billing job, whatever its code location is called, and its months.

    Raises:
        TriggerError: when no loaded code location has it, or it has no month yet.
    """
    nodes = one(await server.ask(queries.REPOSITORIES), "RepositoryConnection")["nodes"]
    node = next((each for each in nodes if any(job["name"] == JOB for job in each["jobs"])), None)
    if node is None:
        raise TriggerError(
            f"The server has no job {JOB}: its code location did not load.",
            remedy="See Deployment in the server's Dagster pages, and its log.",
        )
    place = {"repositoryLocationName": node["location"]["name"], "repositoryName": node["name"]}
    data = await server.ask(queries.PARTITIONS, job={**place, "pipelineName": JOB})
    keys = one(data, "Pipeline")["partitionKeysOrError"]["partitionKeys"]
    if not keys:
        raise TriggerError(
            "The server has no month to bill: none from its first one on is closed yet.",
            remedy="See SPELL_BILLING_FIRST_MONTH on the server.",
        )
    return Job(place, sorted(Month.from_partition_key(key) for key in keys))


async def runs_under_way(server: Server, month: Month) -> list[RunSeen]:
    """Return the runs that send a month's invoices, or wait to; the newest first."""
    wanted = {"tags": [_tag(PARTITION_TAG, month.partition_key)], "statuses": list(_UNDER_WAY)}
    return await _runs(server, wanted)


async def runs_tagged(server: Server, tag: str, value: str) -> list[RunSeen]:
    """Return the runs with a tag, the newest first."""
    return await _runs(server, {"tags": [_tag(tag, value)]})


async def launch_run(server: Server, job: Job, month: Month, *, actor: str, verify: bool) -> str:
    """Start a run of the month, once, even when the server's answer is lost, and return its id."""
    token = secrets.token_hex(8)
    config = {"ops": {"stripe_invoices": {"config": {"verify": True}}}} if verify else {}
    tags = {PARTITION_TAG: month.partition_key, ACTOR_TAG: actor, TRIGGER_TAG: token}
    params = {
        "selector": {**job.place, "jobName": JOB},
        "runConfigData": config,
        "executionMetadata": {"tags": [_tag(name, value) for name, value in tags.items()]},
    }

    async def launch() -> str:
        data = await server.ask(queries.LAUNCH, patiently=False, params=params)
        return str(one(data, "LaunchRunSuccess")["run"]["runId"])

    async def found() -> str | None:
        runs = await runs_tagged(server, TRIGGER_TAG, token)
        return runs[0].id if runs else None

    return await _once(server, launch, found)


async def launch_backfill(server: Server, job: Job, months: Sequence[Month], *, actor: str) -> str:
    """Start one backfill of the months, as `launch_run` starts a run, and return its id."""
    token = secrets.token_hex(8)
    params = {
        "selector": {"partitionSetName": f"{JOB}_partition_set", "repositorySelector": job.place},
        "partitionNames": [month.partition_key for month in months],
        "tags": [_tag(ACTOR_TAG, actor), _tag(TRIGGER_TAG, token)],
    }

    async def launch() -> str:
        data = await server.ask(queries.BACKFILL, patiently=False, params=params)
        return str(one(data, "LaunchBackfillSuccess")["backfillId"])

    async def found() -> str | None:
        results = one(await server.ask(queries.BACKFILLS), "PartitionBackfills")["results"]
        ours = _tag(TRIGGER_TAG, token)
        return next((str(each["id"]) for each in results if ours in each["tags"]), None)

    return await _once(server, launch, found)


async def _once(
    server: Server, launch: Callable[[], Awaitable[str]], found: Callable[[], Awaitable[str | None]]
) -> str:
    """Launch; where the answer is lost, look whether it went through before launching again."""
    tries = 0
    while True:
        tries += 1
        try:
            return await launch()
        except ServerLostError as problem:
            server.say(f"{problem.message} Looking whether the launch went through.")
            known = await found()
            if known is not None:
                return known
            if tries == _TRIES:
                raise


async def _runs(server: Server, wanted: dict[str, Any]) -> list[RunSeen]:
    data = await server.ask(queries.RUNS, filter=wanted, limit=_MOST_RUNS)
    return [
        RunSeen(run["runId"], run["status"], tags_of(run["tags"]))
        for run in one(data, "Runs")["results"]
        if _sends_invoices(run)
    ]


def _sends_invoices(run: Mapping[str, Any]) -> bool:
    if run["jobName"] == JOB:
        return True
    selection = run["assetSelection"]
    # Without a selection it is of all assets.
    selected = selection is None or [_INVOICES_ASSET] in [asset["path"] for asset in selection]
    return selected and bool(run["jobName"].startswith(_ASSETS_ALONE))


def tags_of(tags: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return GraphQL's list of tags as a dictionary."""
    return {tag["key"]: tag["value"] for tag in tags}


def _tag(key: str, value: str) -> dict[str, str]:
    return {"key": key, "value": value}


def one(data: Mapping[str, Any], wanted: str) -> dict[str, Any]:
    """Return the first field of an answer, which must be of the wanted type.

    Raises:
        TriggerError: with what the server says instead, and what to do about it.
    """
    field = next(iter(data.values()))
    field = field if isinstance(field, dict) else {}
    kind = str(field.get("__typename", "no answer"))
    if kind == wanted:
        return field
    errors = "; ".join(str(error.get("message", "")) for error in field.get("errors", []))
    message = one_line(errors or str(field.get("message", ""))).rstrip(".")
    raise TriggerError(
        f"The server refuses: {kind}{f': {message}' if message else ''}.",
        remedy=_REMEDIES.get(kind, "The server's log says more."),
    )
