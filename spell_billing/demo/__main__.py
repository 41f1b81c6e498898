"""The demo: a made-up platform's closed months, billed for real against our stand-in for Stripe.

`python -m spell_billing.demo` bills them and says what happened; `--dev` serves all pages on them as well.
"""

import os
import secrets
import shlex
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import click
import sqlalchemy as sa

from spell_billing.cli.common import clear_errors
from spell_billing.core.money import format_money
from spell_billing.demo.data import MIN_USERS, seed, stripe_customers
from spell_billing.demo.serving import serve
from spell_billing.demo.tables import usage_counters
from spell_billing.ledger.migrate import migrate
from spell_billing.orchestration.instance import prepare_dagster_home
from spell_billing.settings.billing import Settings
from spell_billing.settings.databases import create_engine_for
from spell_billing.stripe_double import StripeDouble

HOME = Path(".demo")
_STRIPE_PORT = 12111
_CALLERS = frozenset({"PATH", "HOME", "LANG", "TERM", "VIRTUAL_ENV", "TMPDIR", "COLUMNS"})
"""What is taken from the caller's environment."""


@click.command()
@click.option("--dev", is_flag=True, help="Serve Dagster and all pages on the demo's database, too.")
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Of the pages.")
@click.option(
    "--stripe-port",
    type=click.IntRange(0, 65535),
    default=_STRIPE_PORT,
    show_default=True,
    help="Of the stand-in for Stripe; 0: a free one.",
)
@click.option(
    "--users",
    type=click.IntRange(MIN_USERS),
    default=150,
    show_default=True,
    help="Of a platform made up anew.",
)
def main(port: int, stripe_port: int, users: int, *, dev: bool) -> None:
    """Bill the demo's closed months, and with --dev serve all pages on them until Ctrl-C."""
    # Ended by another process, it ends what it started, as on Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    environment = _environment(port)
    with clear_errors():
        settings = Settings(environment)
        prepare_dagster_home(settings)
        environment["DAGSTER_HOME"] = str(settings.dagster_home)
        double = StripeDouble(
            port=stripe_port,
            state_file=HOME / "stripe-double.json",
            pages_at=f"http://127.0.0.1:{stripe_port}",
        )
        environment["SPELL_BILLING_FIRST_MONTH"] = _prepare(settings, double, datetime.now(UTC), users)
    try:
        with double.running():
            environment["STRIPE_API_BASE"] = double.base_url
            _write_command(environment)
            code = _bill(environment)
            if code == 0:
                _say_what_stripe_holds(double)
                code = serve(environment, HOME, port, double.base_url) if dev else _say_where_to_look()
    except OSError as error:
        sys.exit(
            f"Error: the stand-in for Stripe cannot listen on port {stripe_port}: {error.strerror}. End what "
            "listens there (`make dev` in another terminal?), or name another: ARGS='--stripe-port 12112'."
        )
    sys.exit(code)


def _environment(port: int) -> dict[str, str]:
    """Return the demo's settings: nothing of the caller's databases or keys may be touched."""
    kept = {name: value for name, value in os.environ.items() if name in _CALLERS}
    return {
        **kept,
        "SPELL_BILLING_HOME": str(HOME.absolute()),
        "SPELL_BILLING_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "STRIPE_API_KEY": "sk_test_demo",
        "LINE_ITEMS_BY": "endpoint",
        "ADMIN_SECRET": _secret(),
    }


def _secret() -> str:
    """Return the demo's admin secret, made once."""
    file = HOME / "admin-secret"
    if not file.exists():
        HOME.mkdir(exist_ok=True)
        file.touch(mode=0o600)
        file.write_text(secrets.token_hex(16), encoding="utf-8")
    return file.read_text(encoding="utf-8")


def _write_command(environment: dict[str, str]) -> None:
    """Write `.demo/spell-billing`: the command line with the demo's settings."""
    kept = {name: value for name, value in environment.items() if name not in _CALLERS}
    lines = ["unset DATABASE_URL USAGE_DATABASE_URL"]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in kept.items()]
    command = HOME / "spell-billing"
    text = "\n".join(["#!/bin/sh", *lines, f'exec {shlex.quote(sys.executable)} -m spell_billing "$@"', ""])
    command.write_text(text, encoding="utf-8")
    command.chmod(0o755)


def _prepare(settings: Settings, double: StripeDouble, now: datetime, users: int) -> str:
    """Make the platform up, or take that of before; return its first month."""
    engine = create_engine_for(settings.database)
    try:
        # Asked of the platform's table, not of the ledger: seeding is one transaction, so it is there or not.
        if not sa.inspect(engine).has_table("usage_counters"):
            summary = seed(engine, now=now, users=users)
            click.echo(
                f"Made up a platform: {summary.users} users, {summary.rows:,} API calls in "
                f"{len(summary.closed_months)} closed months and the present one ({settings.database})."
            )
        else:
            click.echo(f"Using the demo's database of before ({settings.database}); `make clean` removes it.")
        migrate(engine)
        known = {customer.id for customer in double.state.customers}
        for customer in stripe_customers(engine):
            if customer.customer_id not in known:
                double.add_customer(customer.customer_id, card=customer.card, email=customer.email)
        with engine.connect() as connection:
            first = connection.scalar(sa.select(sa.func.min(usage_counters.c.created_at)))
        return f"{first:%Y-%m}"
    finally:
        engine.dispose()


def _bill(environment: dict[str, str]) -> int:
    command = [sys.executable, "-m", "spell_billing.demo.billing"]
    log = HOME / "bill.log"
    with log.open("w", encoding="utf-8") as lines:
        errors = None if sys.stderr.isatty() else lines
        code = subprocess.run(command, env=environment, stderr=errors, check=False).returncode
    if code:
        click.echo(log.read_text(encoding="utf-8"), err=True)
    return code


def _say_what_stripe_holds(double: StripeDouble) -> None:
    finalized = [invoice for invoice in double.invoices() if invoice.status not in {"draft", "void"}]
    total = format_money(sum(invoice.total_cents for invoice in finalized), grouping=True)
    click.echo(f"\nOur stand-in for Stripe holds {len(finalized)} finalized invoices, {total} in all.")


def _say_where_to_look() -> int:
    command = HOME / "spell-billing"
    click.echo(
        "Where to look next:\n"
        "  make dev                      all pages, and the stand-in for commands that ask Stripe\n"
        "  make demo                     again: nothing is billed twice\n"
        f"  {command} status        every month\n"
        f"  {command} --help        all commands, on the demo's database"
    )
    return 0


if __name__ == "__main__":
    main()
