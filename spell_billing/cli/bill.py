"""`spell-billing bill`: bill a month through the Dagster job, in this process."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from spell_billing.cli.common import (
    EXIT_USERS_LEFT,
    clear_errors,
    console,
    fail,
    month_option,
    person,
)
from spell_billing.core.month import Month, require_billable
from spell_billing.core.outcomes import INVOICED, TO_DRIVE

if TYPE_CHECKING:
    import dagster as dg

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
    from spell_billing.settings.billing import Settings  # noqa: PLC0415

    with clear_errors():
        settings = Settings.from_environment()
        now, grace = datetime.now(UTC), settings.billing_grace
        require_billable(month, first=settings.first_month, now=now, grace=grace)
        _ = settings.stripe_api_key, settings.stripe_api_base
        _run(settings, month, verify=verify, first=first)


def _run(settings: "Settings", month: Month, *, verify: bool, first: int | None) -> None:
    from spell_billing.cli.progress_bar import shown_progress  # noqa: PLC0415 - heavy: all of Dagster below
    from spell_billing.cli.review import write_review_of  # noqa: PLC0415
    from spell_billing.cli.summary import write_summary  # noqa: PLC0415
    from spell_billing.ledger.ledger import Ledger  # noqa: PLC0415
    from spell_billing.reporting.status import month_status  # noqa: PLC0415

    with Ledger(settings.database) as ledger:
        before = month_status(ledger, month, datetime.now(UTC))
    terminal = sys.stderr.isatty()
    with shown_progress(shown=terminal):
        result = _execute(settings, month, verify=verify, first=first, quiet=terminal)
    if not result.success:
        fail(_why_it_failed(result))
    with Ledger(settings.database) as ledger:
        after = month_status(ledger, month, datetime.now(UTC))
        write_summary(console(), after)
        if write_review_of(ledger, month):
            sys.exit(EXIT_USERS_LEFT)
    _say_what_is_new(
        before.count(INVOICED), after.count(INVOICED), began=before.state in {"partial", "billed"}
    )
    waiting = after.count(TO_DRIVE)
    if first is not None and waiting:
        bills = "bill waits" if waiting == 1 else "bills wait"
        click.echo(f"{waiting:,} {bills}. To send the rest: spell-billing bill --month {month}")
    click.echo(f"Next: spell-billing invoices --month {month}")
    if after.state != "billed":
        sys.exit(EXIT_USERS_LEFT)


def _say_what_is_new(before: int, after: int, *, began: bool) -> None:
    if after < before:
        gone = f"{before - after:,} of the {before:,} invoices of earlier runs no longer"
        click.echo(f"{gone} stand: voided or changed at Stripe by hand. Nobody was billed twice.")
    elif began:
        new = f"{after - before:,} new invoices" if after != before else "No new invoice"
        click.echo(f"{new}: the {before:,} invoices of earlier runs stand, nobody was billed twice.")


def _execute(
    settings: "Settings", month: Month, *, verify: bool, first: int | None, quiet: bool
) -> "dg.ExecuteInProcessResult":
    with _loading():
        from spell_billing.orchestration.instance import (  # noqa: PLC0415 - Dagster reads its home on import of the instance
            fail_dead_runs,
            living_process,
            open_instance,
            prepare_dagster_home,
        )

        prepare_dagster_home(settings)
        from spell_billing.ledger.ledger import Ledger  # noqa: PLC0415
        from spell_billing.orchestration.assets.common import ACTOR_TAG  # noqa: PLC0415
        from spell_billing.orchestration.build import build_defs  # noqa: PLC0415

    with (
        open_instance() as instance,
        Ledger(settings.database) as ledger,
        living_process(ledger) as process_tags,
    ):
        for run_id in fail_dead_runs(instance, ledger):
            click.echo(f"Run {run_id} had died; marked as failed.", err=True)
        job = build_defs().resolve_job_def("monthly_billing")
        return job.execute_in_process(
            run_config={
                "ops": {"stripe_invoices": {"config": {"verify": verify, "first": first}}},
                "loggers": {"console": {"config": {"log_level": "WARNING" if quiet else "INFO"}}},
            },
            partition_key=month.partition_key,
            instance=instance,
            tags={ACTOR_TAG: person(), **process_tags},
            raise_on_error=False,
        )


@contextmanager
def _loading() -> Iterator[None]:
    """Load modules undisturbed: they stay, so the garbage collector need not look at them, now or later."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _why_it_failed(result: "dg.ExecuteInProcessResult") -> str:
    """Return the first thing a person must fix: a failed check, or a failed step."""
    for check in result.get_asset_check_evaluations():
        if check.blocking and not check.passed and check.description:
            return f"{check.check_name}: {check.description} Nothing was sent to Stripe."
    for event in result.get_failed_step_keys():
        failure = result.failure_data_for_node(event)
        if failure is not None and failure.user_failure_data is not None:
            return str(failure.user_failure_data.description)
        if failure is not None and failure.error is not None:
            cause = failure.error.cause or failure.error
            return f"{event}: {cause.message.strip()}"
    return f"run {result.run_id} failed; its log in Dagster says why"
