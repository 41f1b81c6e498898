"""Which of Dagster's runs are billing, of which month, and how they went wrong, in words."""

import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import dagster as dg

from spell_billing.core.errors import MonthError
from spell_billing.core.month import Month
from spell_billing.orchestration.assets.invoice_drafts import invoice_drafts
from spell_billing.orchestration.assets.raw_usage import raw_usage
from spell_billing.orchestration.assets.stripe_invoices import stripe_invoices
from spell_billing.orchestration.assets.user_usage import user_usage
from spell_billing.orchestration.jobs import monthly_billing
from spell_billing.orchestration.unstable import PartitionBackfill

PARTITION_TAG = "dagster/partition"
UNDER_WAY = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

_WILL_RETRY = "dagster/will_retry"
_RETRIED_AS = "dagster/auto_retry_run_id"
_TAG_DELAY = timedelta(seconds=60)
"""Dagster writes whether it runs a failed run again a moment after the failure itself."""
_RETRY_DELAY = timedelta(minutes=10)
"""A run that was not retried within this time will not be."""

_ASSETS = frozenset(asset.key for asset in (raw_usage, user_usage, invoice_drafts, stripe_invoices))
_IMPLICIT_JOB = "__ASSET_JOB"
"""Dagster's name for the job of assets that are launched alone."""
_LONGEST_WORDS = 600
_OURS = re.compile(r"spell_billing[.]core[.]errors[.]\w+: (?P<words>.+)", re.DOTALL)
"""An error of ours, as Dagster writes it: behind its class."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a run did not succeed: its failed step, if one did; what the failure says; whether it passes.

    `beside` is what others of its steps say that failed too.
    """

    step: str | None
    words: str
    transient: bool
    beside: tuple[str, ...] = ()


def is_billing(run: dg.DagsterRun, location: str | None = None) -> bool:
    """Return whether a run is of the billing job, or of its assets launched alone.

    Args:
        run: Any run of the instance.
        location: Our code location's name, where it is known: others may have a job of the same name.
    """
    origin = run.remote_job_origin
    if origin is not None and location is not None and origin.location_name != location:
        return False
    if run.job_name == monthly_billing.name:
        return True
    # Without a selection it is of all assets.
    return run.job_name.startswith(_IMPLICIT_JOB) and bool(_ASSETS & (run.asset_selection or _ASSETS))


def is_billing_backfill(backfill: PartitionBackfill) -> bool:
    """Return whether a backfill is of the billing job, or of its assets."""
    if backfill.partition_set_name is not None:
        return backfill.partition_set_name == f"{monthly_billing.name}_partition_set"
    return bool(_ASSETS.intersection(backfill.asset_selection or ()))


def month_of(run: dg.DagsterRun) -> Month | None:
    """Return the month that a run is of; None when it has none."""
    try:
        return Month.from_partition_key(run.tags.get(PARTITION_TAG, ""))
    except MonthError:
        return None


def months_under_way(instance: dg.DagsterInstance) -> frozenset[Month]:
    """Return the months that a run bills, or waits to bill."""
    runs = instance.get_runs(dg.RunsFilter(statuses=UNDER_WAY))
    found = (month_of(run) for run in runs if is_billing(run))
    return frozenset(month for month in found if month is not None)


def last_runs(instance: dg.DagsterInstance, month: Month, limit: int) -> list[dg.RunRecord]:
    """Return the billing job's latest runs of a month, the newest first, with the times they ended."""
    wanted = dg.RunsFilter(job_name=monthly_billing.name, tags={PARTITION_TAG: month.partition_key})
    return list(instance.get_run_records(wanted, limit=limit))


def is_run_again(
    instance: dg.DagsterInstance, run: dg.DagsterRun, ended_at: datetime, now: datetime
) -> bool | None:
    """Return whether Dagster runs a run that did not succeed again; None when that is not known yet.

    It cannot where no code location launched the run, whatever its tags say: that of a `bill` command.
    """
    if run.status is not dg.DagsterRunStatus.FAILURE or run.remote_job_origin is None:
        return False
    tags, age = run.tags, now - ended_at
    if tags.get(_WILL_RETRY) == "true":
        if _RETRIED_AS in tags:
            return True
        return None if age < _RETRY_DELAY else False
    return None if instance.run_retries_enabled and _WILL_RETRY not in tags and age < _TAG_DELAY else False


def problem_of(instance: dg.DagsterInstance, run_id: str) -> Problem:
    """Say why a run did not succeed, from its events: a blocking check, a step, or the run as a whole."""
    kinds = dg.DagsterEventType
    entries = instance.all_logs(
        run_id,
        of_type={kinds.ASSET_CHECK_EVALUATION, kinds.STEP_FAILURE, kinds.RUN_FAILURE, kinds.RUN_CANCELED},
    )
    events = [entry.dagster_event for entry in entries if entry.dagster_event is not None]
    failed = [event for event in events if event.event_type is kinds.STEP_FAILURE]
    refused = next((error for event in events if (error := _error_of_run(event))), None)
    if not failed and refused is not None:
        return Problem(None, short(refused), transient=False)
    if not failed:
        words = " ".join(event.message for event in events if event.message and event.step_key is None)
        # No step says what is wrong: the process that ran it has died. A run is canceled on purpose.
        died = not any(event.event_type is kinds.RUN_CANCELED for event in events)
        return Problem(None, short(words or "Dagster says nothing about it."), transient=died)
    checks = {
        event.step_key: event.asset_check_evaluation_data
        for event in events
        if event.event_type is kinds.ASSET_CHECK_EVALUATION
    }
    first, *others = (_problem_of_step(event, checks.get(event.step_key)) for event in failed)
    return replace(first, beside=tuple(other.words for other in others))


def _error_of_run(event: dg.DagsterEvent) -> str | None:
    """Return why a resource of ours refused a run before its first step; None where none did."""
    failure = event.job_failure_data if event.event_type is dg.DagsterEventType.RUN_FAILURE else None
    error = failure.error if failure is not None else None
    while error is not None and error.cause is not None:
        error = error.cause
    found = _OURS.match(error.message) if error is not None else None
    return found["words"] if found else None


def _problem_of_step(failed: dg.DagsterEvent, check: dg.AssetCheckEvaluation | None) -> Problem:
    if check is not None:
        words = short(f"{check.asset_check_key.name}: {check.description or 'did not pass'}")
        return Problem(failed.step_key, f"{words} Nothing was sent to Stripe.", transient=False)
    failure = failed.step_failure_data
    ours = failure.user_failure_data
    if ours is not None and ours.description:
        transient = ours.metadata.get("transient")
        return Problem(failed.step_key, short(ours.description), bool(transient and transient.value))
    cause = failure.error and (failure.error.cause or failure.error)
    return Problem(failed.step_key, short(cause.message if cause else "It failed."), transient=False)


def short(words: str) -> str:
    """Bring an error's words onto one line of at most 600 characters."""
    words = " ".join(words.split())
    return words if len(words) <= _LONGEST_WORDS else f"{words[: _LONGEST_WORDS - 4]} ..."
