"""`spell-billing metrics`: the ledger's numbers for Prometheus."""

import socket
from contextlib import nullcontext
from functools import cache

import click

from spell_billing.cli.common import clear_errors, fail


@click.command("metrics")
@click.option("--host", metavar="ADDRESS", default="127.0.0.1", show_default=True)
@click.option("--port", metavar="PORT", type=click.IntRange(1, 65535), default=9464, show_default=True)
@click.option("--once", is_flag=True, help="Write the metrics and end, for a look or a textfile collector.")
def command(host: str, port: int, *, once: bool) -> None:
    """Serve the ledger's numbers to Prometheus at /metrics, until it is stopped."""
    from spell_billing.ledger.ledger import Ledger  # noqa: PLC0415 - heavy: SQLAlchemy
    from spell_billing.reporting.metrics import metrics_endpoint, metrics_text  # noqa: PLC0415
    from spell_billing.settings.billing import Settings  # noqa: PLC0415

    with clear_errors():
        url = Settings.from_environment().database
        if once:
            click.echo(metrics_text(lambda: Ledger(url)), nl=False)
            return
    import uvicorn  # noqa: PLC0415 - heavy: a web server
    from starlette.applications import Starlette  # noqa: PLC0415
    from starlette.routing import Route  # noqa: PLC0415

    # Opened at the first scrape that finds it, and kept open for the next ones.
    ledger = cache(lambda: Ledger(url))
    endpoint = metrics_endpoint(lambda: nullcontext(ledger()))
    app = Starlette(routes=[Route("/metrics", endpoint)])
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            # Connections wait from here on: a reader of the next line can scrape at once.
            listener.listen()
        except OSError as error:
            fail(f"{host}:{port} cannot be listened on: {error.strerror}. Choose another --port.")
        click.echo(f"Metrics at http://{host}:{port}/metrics")
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
