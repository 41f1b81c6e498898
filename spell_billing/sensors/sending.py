"""Sending several alerts in one tick: one that does not go out keeps none of the others back."""

from collections.abc import Iterable

from spell_billing.alerts.alert import Alert
from spell_billing.alerts.channels import Alerts
from spell_billing.core.errors import AlertError


def send_all(alerts: Alerts, found: Iterable[Alert]) -> int:
    """Send every alert.

    Returns:
        How many there were.

    Raises:
        AlertError: the first that did not go out on every channel, after all were tried.
    """
    number, first_problem = 0, None
    for alert in found:
        number += 1
        try:
            alerts.send(alert)
        except AlertError as problem:
            first_problem = first_problem or problem
    if first_problem is not None:
        raise first_problem
    return number
