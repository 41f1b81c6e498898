"""What listens until it is stopped: `serve`, `metrics`, `stripe-double`."""

import ipaddress
import socket
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import click

from spell_billing.cli.common import fail, open_ledger

_IN_THE_CLEAR = (
    "Warning: other machines can reach this address, and it speaks plain HTTP: put TLS in front of it, and "
    "set SPELL_BILLING_PUBLIC_URL to the https address."
)
_host_option = click.option(
    "--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="The address to listen on."
)


def _port_option(default: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        "--port",
        metavar="PORT",
        type=click.IntRange(0, 65535),
        default=default,
        show_default=True,
        help="0: a free one.",
    )


def _fail_to_listen(host: str, port: int, error: OSError) -> NoReturn:
    fail(f"Cannot listen on {host}:{port}: {error.strerror}. Choose another --port.")


def _listener(host: str, port: int) -> socket.socket:
    """Bind an address; port 0 is a free one. Connections wait from here on until they are served."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        _fail_to_listen(host, port, error)


@click.command("serve")
@_host_option
@_port_option(3000)
@click.option("--read-only", is_flag=True, help="No runs can be launched and nothing can be changed.")
def serve(host: str, port: int, *, read_only: bool) -> None:
    """Serve everything that is reached over HTTP, until it is stopped. Put it behind TLS.

    Needs ADMIN_SECRET. Runs that are launched here wait for `dagster-daemon run`, which starts them.
    """
    from spell_billing.settings.billing import Settings  # noqa: PLC0415 - heavy imports only where they are used
    from spell_billing.web.settings import WebSettings  # noqa: PLC0415

    web = WebSettings.from_environment()
    # A wrong setting is refused before the address is taken.
    _ = web.admin_secret, web.stripe_webhook_secrets, web.public_url, web.trusted_proxies, web.user_header
    _ = web.people
    settings = Settings.from_environment()
    from spell_billing.web.server import serve as serve_pages  # noqa: PLC0415 - heavy: all of Dagster

    listener = _listener(host, port)
    listens_at, its_port = listener.getsockname()[:2]
    of_this_machine = ipaddress.ip_address(listens_at).is_loopback
    behind_tls = web.public_url is not None and web.public_url.startswith("https://")
    if not of_this_machine and not behind_tls:
        click.echo(_IN_THE_CLEAR, err=True)
    name = f"[{listens_at}]" if ":" in listens_at else listens_at
    ready = f"Listening at http://{name}:{its_port}{' (read-only)' if read_only else ''}"
    serve_pages(listener, settings, web, read_only=read_only, on_ready=lambda: click.echo(ready))


@click.command("metrics")
@_host_option
@click.option("--port", metavar="PORT", type=click.IntRange(1, 65535), default=9464, show_default=True)
@click.option("--once", is_flag=True, help="Write the metrics and end, for a look or a textfile collector.")
def metrics(host: str, port: int, *, once: bool) -> None:
    """Serve the ledger's numbers to Prometheus at /metrics, until it is stopped."""
    from spell_billing.ledger.ledger import Ledger  # noqa: PLC0415 - heavy: SQLAlchemy
    from spell_billing.reporting.metrics import metrics_endpoint, metrics_text  # noqa: PLC0415
    from spell_billing.settings.billing import Settings  # noqa: PLC0415

    url = Settings.from_environment().database
    if once:
        click.echo(metrics_text(open_ledger), nl=False)
        return
    import uvicorn  # noqa: PLC0415 - heavy: a web server
    from starlette.applications import Starlette  # noqa: PLC0415
    from starlette.routing import Route  # noqa: PLC0415

    # Opened at the first scrape that finds it, and kept open for the next ones.
    ledger = cache(lambda: Ledger(url))
    app = Starlette(routes=[Route("/metrics", metrics_endpoint(lambda: nullcontext(ledger())))])
    with _listener(host, port) as listener:
        click.echo(f"Metrics at http://{host}:{port}/metrics")
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


@click.command("stripe-double")
@_port_option(12111)
@_host_option
@click.option(
    "--state",
    "state_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep its objects in this file.",
)
@click.option(
    "--latency",
    "latency_seconds",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=0.0,
    help="Seconds added to every answer.",
)
@click.option("--live-limits", is_flag=True, help="Stripe's rate limits for live keys.")
@click.option("--auto-create-customers", is_flag=True, help="Make unknown customers on first use.")
def stripe_double(host: str, port: int, **options: Any) -> None:
    """Run a stateful stand-in for Stripe: invoices, idempotency keys, events, faults on demand."""
    try:
        import spell_billing.stripe_double as double  # noqa: PLC0415 - heavy: a web server
    except ModuleNotFoundError:
        fail("The stand-in for Stripe is not part of the installed package. Run it from a source checkout.")

    def ready(base_url: str) -> None:
        click.echo(
            f"The Stripe double is listening. Point spell-billing to it with:\n  STRIPE_API_BASE={base_url}"
        )
        click.echo("  STRIPE_API_KEY=sk_test_any")

    try:
        limits = double.RateLimits.live() if options.pop("live_limits") else None
        double.StripeDouble(host=host, port=port, limits=limits, **options).serve(ready)
    except OSError as error:
        _fail_to_listen(host, port, error)
    except double.DoubleError as error:
        fail(str(error))
