"""The words that alerts share: short lines, amounts with their currency, the link to a run."""

from spell_billing.core.errors import SettingsError
from spell_billing.core.month import Month
from spell_billing.settings.notifications import NotificationSettings


def body(*lines: str | None, run_id: str | None = None) -> str:
    """Join the lines that there are; with `run_id`, the link to that run's page comes last."""
    return "\n".join(line for line in (*lines, _link(run_id)) if line)


def bill_command(month: Month) -> str:
    """Return the command that bills a month."""
    return f"spell-billing bill --month {month}"


def users(number: int) -> str:
    """Write a number of users."""
    return "1 user" if number == 1 else f"{number:,} users"


def first_names(names: list[str], number: int) -> str:
    """Name the first of `number` users."""
    return ", ".join(names) + (", ..." if number > len(names) else "")


def _link(run_id: str | None) -> str | None:
    if run_id is None:
        return None
    try:
        base = NotificationSettings.from_environment().dagster_public_url
    except SettingsError as error:
        # The alert matters more than its link.
        return f"(No link to the run: {error})"
    return f"{base}/runs/{run_id}" if base else None
