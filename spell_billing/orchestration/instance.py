"""The Dagster instance that the command line uses, and the runs that died without telling it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import dagster as dg
from dagster import DagsterRunStatus, RunsFilter

from spell_billing.core.errors import SettingsError, SpellBillingError
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.lock import ONCE
from spell_billing.orchestration.billing_runs import month_of
from spell_billing.orchestration.jobs import monthly_billing
from spell_billing.settings.billing import Settings
from spell_billing.settings.environment import usable_folder

LOCK_TAG = "spell_billing/lock"


def prepare_dagster_home(settings: Settings) -> Path:
    """Make the Dagster home where `DAGSTER_HOME` is unset, and point this process at it.

    Raises:
        SettingsError: when `DAGSTER_HOME` is set to a folder that does not exist, or none can be made.
    """
    home = settings.dagster_home
    if settings.environment.get("DAGSTER_HOME", "").strip():
        if not home.is_dir():
            raise SettingsError(
                f"DAGSTER_HOME={home} is not a folder.",
                remedy="Create it with a dagster.yaml in it, or leave DAGSTER_HOME unset.",
            )
    else:
        configuration = home / "dagster.yaml"
        with usable_folder(home, "SPELL_BILLING_HOME"):
            if not configuration.exists():
                shutil.copyfile(Path(__file__).with_name("local_dagster.yaml"), configuration)
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


@contextmanager
def living_process(ledger: Ledger) -> Iterator[dict[str, str]]:
    """Hold a lock of the ledger's while this process runs a job, and return the run's tag that names it.

    The lock is released when the process dies, so that every host that shares the ledger can tell.
    """
    name = f"{ONCE}{uuid4().hex}"
    with ledger.exclusive(name, wait_seconds=0):
        yield {LOCK_TAG: name}


def fail_dead_runs(instance: dg.DagsterInstance, ledger: Ledger) -> list[str]:
    """Mark runs as failed whose `bill` process has died, here or elsewhere: they hold their month's slot.

    Returns:
        The ids of the runs that were marked.
    """
    statuses = [DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTING, DagsterRunStatus.STARTED]
    dead = []
    for run in instance.get_runs(RunsFilter(job_name=monthly_billing.name, statuses=statuses)):
        lock, month = run.tags.get(LOCK_TAG), month_of(run)
        if lock and month and not ledger.is_held(lock) and not ledger.is_held(month):
            instance.report_run_failed(
                run, "The process that ran it has died; the next run does what is left."
            )
            dead.append(run.run_id)
    return dead
