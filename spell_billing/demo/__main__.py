"""The demo: a made-up platform's last closed month, billed for real against our stand-in for Stripe.

`python -m spell_billing.demo` bills it and says what happened; `--dev` opens the Dagster UI on it.
"""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import click
import sqlalchemy as sa

from spell_billing.cli.common import EXIT_USERS_LEFT, clear_errors
from spell_billing.core.money import format_money
from spell_billing.core.month import Month
from spell_billing.demo.data import seed, stripe_customers
from spell_billing.ledger.migrate import migrate
from spell_billing.orchestration.instance import prepare_dagster_home
from spell_billing.settings.billing import Settings
from spell_billing.settings.databases import create_engine_for
from spell_billing.stripe_double import StripeDouble

_HOME = Path(".demo")


@click.command()
@click.option("--dev", is_flag=True, help="Open the Dagster UI on the demo's database.")
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Of the UI.")
def main(port: int, *, dev: bool) -> None:
    """Bill the demo's last closed month, or open the Dagster UI on it."""
    now = datetime.now(UTC)
    environment = _environment()
    with clear_errors():
        settings = Settings(environment)
        prepare_dagster_home(settings)
        environment["DAGSTER_HOME"] = str(settings.dagster_home)
        double = StripeDouble(state_file=_HOME / "stripe-double.json")
        _prepare(settings, double, now)
    with double.running():
        environment["STRIPE_API_BASE"] = double.base_url
        if dev:
            sys.exit(_open_ui(environment, port))
        code = _bill(environment, Month.containing(now).previous())
        _say_where_to_look(double, code)
    sys.exit(0 if code == EXIT_USERS_LEFT else code)


def _environment() -> dict[str, str]:
    """Return the demo's settings: nothing of the caller's databases or keys may be touched."""
    ours = {"PATH", "HOME", "LANG", "TERM", "VIRTUAL_ENV", "TMPDIR", "COLUMNS"}
    kept = {name: value for name, value in os.environ.items() if name in ours}
    return {**kept, "SPELL_BILLING_HOME": str(_HOME.absolute()), "STRIPE_API_KEY": "sk_test_demo"}


def _prepare(settings: Settings, double: StripeDouble, now: datetime) -> None:
    engine = create_engine_for(settings.database)
    try:
        # Asked of the platform's table, not of the ledger: seeding is one transaction, so it is there or not.
        if not sa.inspect(engine).has_table("usage_counters"):
            summary = seed(engine, now=now)
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
    finally:
        engine.dispose()


def _bill(environment: dict[str, str], month: Month) -> int:
    click.echo(f"Billing {month.label} through the Dagster job, with Stripe's SDK, against our stand-in:\n")
    command = [sys.executable, "-m", "spell_billing", "bill", "--month", str(month)]
    log = _HOME / "bill.log"
    with log.open("w", encoding="utf-8") as lines:
        errors = None if sys.stderr.isatty() else lines
        code = subprocess.run(command, env=environment, stderr=errors, check=False).returncode
    if code not in {0, EXIT_USERS_LEFT}:
        click.echo(log.read_text(encoding="utf-8"), err=True)
    return code


def _say_where_to_look(double: StripeDouble, code: int) -> None:
    finalized = [invoice for invoice in double.invoices() if invoice.status != "draft"]
    total = format_money(sum(invoice.total_cents for invoice in finalized), grouping=True)
    click.echo(f"\nOur stand-in for Stripe holds {len(finalized)} finalized invoices, {total} in all.")
    if code == EXIT_USERS_LEFT:
        click.echo("The users without an invoice are part of the demo: the reasons above say what to do.")
    home = f"SPELL_BILLING_HOME={_HOME} .venv/bin/spell-billing"
    click.echo(
        "Where to look next:\n"
        "  make demo                                              again: nothing is billed twice\n"
        "  make dev                                               the Dagster UI on this database\n"
        f"  {home} status      every month\n"
        f"  {home} preview --month {Month.containing(datetime.now(UTC))}"
    )


def _open_ui(environment: dict[str, str], port: int) -> int:
    """Run Dagster's web server and daemon until Ctrl-C, or until one of them ends."""
    click.echo(f"Dagster's UI opens at http://127.0.0.1:{port} (Ctrl-C ends it). To bill a month there:")
    click.echo("  Jobs -> monthly_billing -> Materialize all -> choose a month -> Launch")
    programs = (
        ["dagster-daemon", "run", "-m", "spell_billing.definitions"],
        ["dagster-webserver", "-m", "spell_billing.definitions", "-h", "127.0.0.1", "-p", str(port)],
    )
    binaries = Path(sys.executable).parent
    running = [
        subprocess.Popen([str(binaries / name), *arguments], env=environment) for name, *arguments in programs
    ]
    try:
        return running[-1].wait()
    except KeyboardInterrupt:
        return 0
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


if __name__ == "__main__":
    main()
