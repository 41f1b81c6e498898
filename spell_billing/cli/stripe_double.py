"""`spell-billing stripe-double`: a stand-in for Stripe on this machine."""

import os
from pathlib import Path

import click

from spell_billing.cli.common import fail


@click.command("stripe-double")
@click.option(
    "--port",
    metavar="PORT",
    type=click.IntRange(0, 65535),
    default=12111,
    show_default=True,
    help="0: a free one.",
)
@click.option("--host", metavar="ADDRESS", default="127.0.0.1", show_default=True)
@click.option(
    "--state", type=click.Path(dir_okay=False, path_type=Path), help="Keep its objects in this file."
)
@click.option(
    "--latency",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=0.0,
    help="Seconds added to every answer.",
)
@click.option("--live-limits", is_flag=True, help="Stripe's rate limits for live keys.")
@click.option("--auto-create-customers", is_flag=True, help="Make unknown customers on first use.")
def command(
    port: int,
    host: str,
    state: Path | None,
    latency: float,
    *,
    live_limits: bool,
    auto_create_customers: bool,
) -> None:
    """Run a stateful stand-in for Stripe: invoices, idempotency keys, events, faults on demand."""
    try:
        from spell_billing.stripe_double import (  # noqa: PLC0415 - heavy: a web server
            DoubleError,
            RateLimits,
            StripeDouble,
        )
    except ModuleNotFoundError:
        fail("The stand-in for Stripe is not part of the installed package. Run it from a source checkout.")

    def ready(base_url: str) -> None:
        click.echo(f"Stripe's double listens. Point spell-billing to it with:\n  STRIPE_API_BASE={base_url}")
        click.echo("  STRIPE_API_KEY=sk_test_any")

    try:
        StripeDouble(
            host=host,
            port=port,
            state_file=state,
            latency_seconds=latency,
            limits=RateLimits.live() if live_limits else None,
            auto_create_customers=auto_create_customers,
        ).serve(ready)
    except OSError as error:
        fail(f"{host}:{port} cannot be listened on: {os.strerror(error.errno or 0)}. Choose another --port.")
    except DoubleError as error:
        fail(str(error))
