"""`spell-billing serve`: Dagster's pages, the admin endpoints and the webhook, behind the secret."""

import ipaddress
from typing import TYPE_CHECKING

import click

from spell_billing.cli.common import clear_errors, fail

if TYPE_CHECKING:
    from spell_billing.web.settings import WebSettings

_IN_THE_CLEAR = (
    "Warning: other machines can reach this address, and it speaks plain HTTP: put TLS before it, and set "
    "SPELL_BILLING_PUBLIC_URL to the https address."
)


@click.command("serve")
@click.option(
    "--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="The address to listen on."
)
@click.option(
    "--port",
    metavar="PORT",
    type=click.IntRange(0, 65535),
    default=3000,
    show_default=True,
    help="0: a free one.",
)
@click.option("--read-only", is_flag=True, help="No runs can be launched and nothing can be changed.")
def command(host: str, port: int, *, read_only: bool) -> None:
    """Serve everything that is reached over HTTP, until it is stopped. Put it behind TLS.

    Needs ADMIN_SECRET. Runs that are launched here wait for `dagster-daemon run`, which starts them.
    """
    from spell_billing.settings.billing import Settings  # noqa: PLC0415 - heavy imports only where they are used
    from spell_billing.web.settings import WebSettings  # noqa: PLC0415

    with clear_errors():
        web = WebSettings.from_environment()
        _check(web)
        settings = Settings.from_environment()
        from spell_billing.web.server import listen, serve  # noqa: PLC0415 - heavy: all of Dagster

        try:
            listener = listen(host, port)
        except OSError as error:
            fail(f"{host}:{port} cannot be listened on: {error.strerror}. Choose another --port.")
        listens_at, its_port = listener.getsockname()[:2]
        of_this_machine = ipaddress.ip_address(listens_at).is_loopback
        if not of_this_machine and not _is_https(web):
            click.echo(_IN_THE_CLEAR, err=True)
        address = _address(listens_at, its_port)
        serve(
            listener,
            settings,
            web,
            read_only=read_only,
            on_ready=lambda: click.echo(f"Listening at {address}{' (read-only)' if read_only else ''}"),
        )


def _check(web: "WebSettings") -> None:
    _ = web.admin_secret, web.stripe_webhook_secrets, web.public_url, web.trusted_proxies


def _is_https(web: "WebSettings") -> bool:
    return (web.public_url or "").startswith("https://")


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
