"""`spell-billing status`: where months stand."""

from datetime import UTC, datetime

import click

from spell_billing.cli.common import clear_errors, console, json_option, month_option, write_json
from spell_billing.core.month import Month


@click.command("status")
@month_option(required=False)
@json_option
def command(month: Month | None, *, as_json: bool) -> None:
    """Say where a month stands, or every month from the first drafted one to the present."""
    from spell_billing.cli.summary import write_summary  # noqa: PLC0415 - rich tables, only where shown
    from spell_billing.ledger.ledger import Ledger  # noqa: PLC0415 - heavy: SQLAlchemy
    from spell_billing.reporting.status import month_status  # noqa: PLC0415
    from spell_billing.settings.billing import Settings  # noqa: PLC0415

    now = datetime.now(UTC)
    with clear_errors(), Ledger(Settings.from_environment().database) as ledger:
        months = (
            [month] if month else _months_until(now, [Month.parse(each.month) for each in ledger.months()])
        )
        statuses = [month_status(ledger, each, now) for each in months]
        if as_json:
            data = [status.as_json() for status in statuses]
            write_json(data[0] if month else data)
            return
        for status in statuses:
            write_summary(console(), status)
            click.echo()


def _months_until(now: datetime, drafted: list[Month]) -> list[Month]:
    present = Month.containing(now)
    first = min([*drafted, present.previous()])
    months = [first]
    while months[-1] < present:
        months.append(months[-1].next())
    return months
