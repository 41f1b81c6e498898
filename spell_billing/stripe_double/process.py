"""Serves a double as a process of its own, for the command line."""

from collections.abc import Callable
from pathlib import Path

from spell_billing.stripe_double.double import StripeDouble
from spell_billing.stripe_double.limits import RateLimits


def serve(
    host: str,
    port: int,
    *,
    state_file: Path | None = None,
    latency_seconds: float = 0.0,
    live_limits: bool = False,
    auto_create_customers: bool = False,
    on_ready: Callable[[str], object] | None = None,
) -> None:
    """Serve a double until SIGINT or SIGTERM; `on_ready` gets its base URL.

    Raises:
        OSError: when the port is taken.
        DoubleError: when the state file cannot be read.
    """
    StripeDouble(
        host=host,
        port=port,
        state_file=state_file,
        latency_seconds=latency_seconds,
        limits=RateLimits.live() if live_limits else None,
        auto_create_customers=auto_create_customers,
    ).serve(on_ready)
