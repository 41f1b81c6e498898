"""The Dagster instance that the command line uses, and the runs that died without telling it."""

import os
import shutil
import socket
from importlib import resources
from pathlib import Path

import dagster as dg
import psutil
from dagster import DagsterRunStatus, RunsFilter

from spell_billing.core.errors import SettingsError, SpellBillingError
from spell_billing.jobs import monthly_billing
from spell_billing.settings import Settings

HOST_TAG = "spell_billing/host"
PROCESS_TAG = "spell_billing/process"


def prepare_dagster_home(settings: Settings) -> Path:
    """Make the Dagster home where `DAGSTER_HOME` is unset, and point this process at it.

    Raises:
        SettingsError: when `DAGSTER_HOME` is set to a folder that does not exist.
    """
    home = settings.dagster_home
    if settings.environment.get("DAGSTER_HOME", "").strip():
        if not home.is_dir():
            raise SettingsError(
                f"DAGSTER_HOME={home} is not a folder.",
                remedy="Create it with a dagster.yaml in it, or leave DAGSTER_HOME unset.",
            )
    else:
        home.mkdir(parents=True, exist_ok=True)
        configuration = home / "dagster.yaml"
        if not configuration.exists():
            source = resources.files("spell_billing") / "local_dagster.yaml"
            with resources.as_file(source) as path:
                shutil.copyfile(path, configuration)
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def open_instance() -> dg.DagsterInstance:
    """Open the instance of `DAGSTER_HOME`; close it after use (a context manager).

    Raises:
        SpellBillingError: when its storage does not answer, or its configuration is wrong.
    """
    try:
        return dg.DagsterInstance.get()
    except SpellBillingError:
        raise
    except Exception as error:  # noqa: BLE001 - storage plug-ins raise what their drivers raise
        first_line = str(error).strip().partition("\n")[0]
        raise SpellBillingError(
            f"Dagster's instance cannot be opened: {first_line}.",
            remedy="Check dagster.yaml in DAGSTER_HOME, and DAGSTER_POSTGRES_URL where it is used.",
        ) from None


def process_tags() -> dict[str, str]:
    """Name this process in a run's tags, so that a later one can tell whether it still lives."""
    process = psutil.Process()
    return {HOST_TAG: socket.gethostname(), PROCESS_TAG: f"{process.pid}:{process.create_time():.2f}"}


def fail_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs as failed whose `bill` process on this host has died; they would hold their month's slot.

    Returns:
        The ids of the runs that were marked.
    """
    waiting = instance.get_runs(
        RunsFilter(
            job_name=monthly_billing.name,
            tags={HOST_TAG: socket.gethostname()},
            statuses=[DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTING, DagsterRunStatus.STARTED],
        )
    )
    dead = [run for run in waiting if not _lives(run.tags.get(PROCESS_TAG, ""))]
    for run in dead:
        instance.report_run_failed(
            run, "The process that ran it has died; the next run takes up what is left."
        )
    return [run.run_id for run in dead]


def _lives(name: str) -> bool:
    pid, _, created = name.partition(":")
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" == created
    except (psutil.NoSuchProcess, ValueError):
        return False
