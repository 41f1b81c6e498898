"""Bills the demo's months in order by the product's own commands, with what happens between them.

A process of its own, with the demo's environment: `python -m spell_billing.demo.billing`. Each step is safe
to repeat.
"""

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TextIO

import click
import dagster as dg
import sqlalchemy as sa

from spell_billing.cli import main as spell_billing
from spell_billing.cli.common import EXIT_USERS_LEFT, console, fail
from spell_billing.cli.status import write_summary
from spell_billing.core.money import format_amounts
from spell_billing.core.month import Month
from spell_billing.core.outcomes import INVOICED, UNDONE, State
from spell_billing.demo import story
from spell_billing.demo.tables import plan_subscriptions, usage_counters
from spell_billing.ledger.ledger import Ledger
from spell_billing.orchestration.build import build_defs
from spell_billing.orchestration.instance import open_instance, prepare_dagster_home
from spell_billing.reporting.status import MonthStatus, month_status
from spell_billing.settings.billing import Settings
from spell_billing.settings.databases import create_engine_for


@dataclass(frozen=True)
class _Demo:
    """The demo while it runs; what commands write goes to `log`."""

    engine: sa.Engine
    ledger: Ledger
    log: TextIO
    now: datetime

    def months(self) -> list[Month]:
        """Return the closed months that have usage."""
        at = usage_counters.c.created_at
        with self.engine.connect() as connection:
            first, last = connection.execute(sa.select(sa.func.min(at), sa.func.max(at))).one()
        months = [Month.containing(_aware(first))]
        end = min(Month.containing(_aware(last)), Month.containing(self.now).previous())
        while months[-1] < end:
            months.append(months[-1].next())
        return months

    def last_month(self) -> Month:
        """Return the month of the story: the last one that was closed when the platform was made up."""
        with self.engine.connect() as connection:
            changed = connection.scalar(
                sa.select(plan_subscriptions.c.starts_at).where(plan_subscriptions.c.starts_at.is_not(None))
            )
        return Month.parse(str(changed)[: len("2026-10")])

    def run(self, *arguments: str) -> None:
        """Run a command of `spell-billing` in this process; end with its message where it could not run."""
        print("$ spell-billing", *arguments, file=self.log, flush=True)
        code: object = 0
        try:
            with redirect_stdout(self.log):
                spell_billing(list(arguments), standalone_mode=False)
        except SystemExit as end:
            code = end.code
        except click.ClickException as error:
            fail(error.format_message())
        if code not in {0, None, EXIT_USERS_LEFT}:
            sys.exit(1)

    def follow_payments(self) -> None:
        """Let the sensor `payments` look once, as the daemon does each minute."""
        defs = build_defs()
        sensor = defs.resolve_sensor_def("payments")
        resources = {name: (defs.resources or {})[name] for name in sensor.required_resource_keys}
        with (
            open_instance() as instance,
            dg.build_sensor_context(instance=instance, definitions=defs, resources=resources) as context,
        ):
            said = sensor.evaluate_tick(context).skip_message
        print("payments:", said, file=self.log, flush=True)

    def prepare(self, last: Month) -> None:
        """Let happen what happens before the story's month is billed."""
        late = story.late_call(last)
        same = [usage_counters.c[name] == value for name, value in late.items()]
        with self.engine.begin() as connection:
            if not connection.scalar(sa.select(sa.func.count()).select_from(usage_counters).where(*same)):
                connection.execute(usage_counters.insert(), [late])
        expires = f"{last.plus(12)}-01"
        self.run(
            *("grant", "--user", story.PREPAID, "--cents", str(story.GRANT_CENTS), "--expires", expires),
            *("--id", "order-1001", "--reason", "bought in advance", "--paid"),
        )
        if not self.ledger.bills_of_user(last, story.HELD):
            # One invoice first, to look at it; then there are drafts, and one of them can be held.
            self.run("bill", "--month", str(last), "--first", "1")
            hold = ("hold", "--month", str(last), "--user", story.HELD, "--reason", story.HOLD_REASON)
            self.run(*hold)

    def give_back(self, last: Month) -> None:
        """Refund some of a paid invoice of the month before."""
        self.run(
            *("credit", "--month", str(last.previous()), "--user", story.REFUNDED),
            *("--cents", str(story.REFUND_CENTS), "--reason", story.REFUND_REASON),
        )

    def statuses(self, months: Sequence[Month]) -> list[MonthStatus]:
        """Read where the months stand."""
        return [month_status(self.ledger, month, self.now) for month in months]


def main() -> None:
    """Bill every closed month that has usage, follow its payments, and say what came of it."""
    settings = Settings.from_environment()
    prepare_dagster_home(settings)
    engine = create_engine_for(settings.database)  # the platform's tables are there too
    log_file = settings.home / "demo.log"
    with Ledger(settings.database) as ledger, log_file.open("a", encoding="utf-8") as log:
        demo = _Demo(engine, ledger, log, datetime.now(UTC))
        months, last = demo.months(), demo.last_month()
        before = _invoices(demo.statuses(months))
        click.echo("Billing each month by the Dagster job, with Stripe's SDK, at our stand-in for Stripe:\n")
        for month in months:
            if month == last:
                demo.prepare(last)
            demo.run("bill", "--month", str(month))
            demo.follow_payments()
            click.echo(_in_a_line(*demo.statuses([month])))
        demo.give_back(last)
        if before:
            after = _invoices(demo.statuses(months))
            new = f"{after - before:,} new invoices" if after != before else "No new invoice"
            click.echo(f"\n{new}: the {before:,} invoices of earlier runs stand, nobody was billed twice.")
        click.echo()
        write_summary(console(), *demo.statuses([last]))
        _tell(last)
    engine.dispose()


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _invoices(statuses: Sequence[MonthStatus]) -> int:
    return sum(status.count(INVOICED) for status in statuses)


def _in_a_line(status: MonthStatus) -> str:
    amount = format_amounts(status.by_currency("total_cents", INVOICED))
    paid, declined = (status.count(frozenset({each})) for each in (State.PAID, State.PAYMENT_FAILED))
    return (
        f"  {status.month.label:<15} {status.count(INVOICED):>4} invoices {amount:>10}: {paid:>3} paid, "
        f"{declined} declined; {status.count(UNDONE)} users without an invoice"
    )


def _tell(last: Month) -> None:
    """Say what happened to whom, and how to see it."""
    click.echo(f"\nThe story of {last.label}, and how to see it:")
    for role in story.CAST:
        click.echo(f"  {role.user_id:<5} {role.what}\n          .demo/spell-billing {role.see(last)}")


if __name__ == "__main__":
    main()
