"""`spell-billing bill`: bill a month through the Dagster job, in this process."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click
from rich import progress
from rich.console import Console
from rich.text import Text

from spell_billing.cli.common import EXIT_USERS_LEFT, console, fail, month_option, open_ledger, person, say
from spell_billing.core.month import Month, require_billable
from spell_billing.core.outcomes import INVOICED, TO_DRIVE
from spell_billing.invoicing.progress import watched_by

if TYPE_CHECKING:
    from spell_billing.settings.billing import Settings


@click.command("bill")
@month_option(required=True)
@click.option("--verify", is_flag=True, help="Ask Stripe what stands even when every user is done.")
@click.option(
    "--first",
    type=click.IntRange(min=1),
    metavar="N",
    help="Send N invoices and stop, to look at them at Stripe; the next `bill` sends the rest.",
)
def command(month: Month, first: int | None, *, verify: bool) -> None:
    """Bill a closed month: freeze its usage, draft every invoice, send them to Stripe, each exactly once.

    Safe to repeat: what is done is not done again, and what failed is taken up. A month that is far from what
    was billed before is sent only when a person has approved it: see `approve`.
    """
    from spell_billing.cli.status import write_review_of, write_summary  # noqa: PLC0415 - heavy: SQLAlchemy
    from spell_billing.ledger.nothing_made import starts_over  # noqa: PLC0415
    from spell_billing.reporting.status import month_status  # noqa: PLC0415
    from spell_billing.settings.billing import Settings  # noqa: PLC0415

    settings = Settings.from_environment()
    now, grace = datetime.now(UTC), settings.billing_grace
    require_billable(month, first=settings.first_month, now=now, grace=grace)
    _ = settings.stripe_api_key, settings.stripe_api_base
    with open_ledger() as ledger:
        before = month_status(ledger, month, now)
    terminal = sys.stderr.isatty()
    with shown_progress(shown=terminal):
        problem = _execute(settings, month, verify=verify, first=first, quiet=terminal)
    if problem is not None:
        for words in problem[:-1]:
            say(f"Error: {words}", err=True)
        fail(problem[-1])
    with open_ledger() as ledger:
        after = month_status(ledger, month, datetime.now(UTC))
        anew = ledger.read(starts_over, month)
        write_summary(console(), after)
        if write_review_of(ledger, month):
            sys.exit(EXIT_USERS_LEFT)
    _write_what_is_new(
        before.count(INVOICED), after.count(INVOICED), began=before.state in {"partial", "billed"}
    )
    waiting = after.count(TO_DRIVE)
    if first is not None and waiting:
        bills = "bill waits" if waiting == 1 else "bills wait"
        how = (
            "as they were drafted; one whose account gets another customer or currency meanwhile will be "
            "drafted again"
        )
        if anew:
            how = "and as no invoice was made, the month will be drafted again"
        say(f"{waiting:,} {bills}, {how}. To send the rest: spell-billing bill --month {month}")
    say(f"Next: spell-billing invoices --month {month}")
    if after.state != "billed":
        sys.exit(EXIT_USERS_LEFT)


def _write_what_is_new(before: int, after: int, *, began: bool) -> None:
    if after < before:
        gone = f"{before - after:,} of the {before:,} invoices of earlier runs no longer"
        say(f"{gone} stand: voided or changed at Stripe by hand. Nobody was billed twice.")
    elif began and before:
        number = after - before
        new = f"{number:,} new invoice{'' if number == 1 else 's'}" if number else "No new invoice"
        stand = (
            "1 invoice of earlier runs stands"
            if before == 1
            else f"{before:,} invoices of earlier runs stand"
        )
        say(f"{new}: the {stand}, nobody was billed twice.")


def _execute(
    settings: "Settings", month: Month, *, verify: bool, first: int | None, quiet: bool
) -> tuple[str, ...] | None:
    """Run the job for the month; return why it did not succeed, if it did not: what each failed step says."""
    from spell_billing.orchestration.assets.common import ACTOR_TAG  # noqa: PLC0415 - heavy: all of Dagster
    from spell_billing.orchestration.billing_runs import problem_of  # noqa: PLC0415
    from spell_billing.orchestration.build import build_defs  # noqa: PLC0415
    from spell_billing.orchestration.instance import (  # noqa: PLC0415
        fail_dead_runs,
        living_process,
        open_instance,
        prepare_dagster_home,
    )

    prepare_dagster_home(settings)
    with open_instance() as instance, open_ledger() as ledger, living_process(ledger) as process_tags:
        for run_id in fail_dead_runs(instance, ledger):
            say(f"Run {run_id} had died; marked as failed.", err=True)
        job = build_defs().resolve_job_def("monthly_billing")
        result = job.execute_in_process(
            run_config={
                "ops": {"stripe_invoices": {"config": {"verify": verify, "first": first}}},
                "loggers": {"console": {"config": {"log_level": "WARNING" if quiet else "INFO"}}},
            },
            partition_key=month.partition_key,
            instance=instance,
            tags={ACTOR_TAG: person(), **process_tags},
            raise_on_error=False,
        )
        if result.success:
            return None
        problem = problem_of(instance, result.run_id)
        return problem.words, *problem.beside


class _Bars:
    def __init__(self, bars: progress.Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, progress.TaskID] = {}

    def __call__(self, step: str, done: int, total: int | None) -> None:
        if step not in self._tasks:
            self._tasks[step] = self._bars.add_task(step, total=total)
        self._bars.update(self._tasks[step], completed=done, total=total)


class _Rate(progress.ProgressColumn):
    def render(self, task: progress.Task) -> Text:
        seconds = task.finished_time or task.elapsed
        return Text(f"{task.completed / seconds:,.0f}/s" if seconds else "")


@contextmanager
def shown_progress(*, shown: bool) -> Iterator[None]:
    """Show bars on standard error while the block runs; without a terminal the run logs lines instead."""
    if not shown:
        yield
        return
    count, left = progress.MofNCompleteColumn(), progress.TimeRemainingColumn()
    columns = (progress.TextColumn("{task.description}"), progress.BarColumn(), count, _Rate(), left)
    # The terminal itself: while a step runs, Dagster has standard error lead to the step's log.
    with (
        os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding=sys.stderr.encoding) as terminal,
        progress.Progress(*columns, console=Console(file=terminal)) as bars,
        watched_by(_Bars(bars)),
    ):
        yield
