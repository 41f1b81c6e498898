"""The command line. Commands load when they are called, so that help appears at once."""

import atexit
import contextlib
import gc
import importlib
import os
import sys
from typing import Any

import click

_COMMANDS = {
    "alert-test": ("notices", "Send a test alert on every channel."),
    "approve": ("review", "Approve a month that is in review, as reviewed."),
    "bill": ("bill", "Bill a closed month: freeze, draft, send to Stripe. Safe to repeat."),
    "copy-usage": ("store", "Copy frozen usage from a folder into a bucket."),
    "credit": ("corrections", "Give back some or all of one user's invoice."),
    "erase-user": ("users", "Replace a user's id by a pseudonym everywhere."),
    "events": ("ledger", "List Stripe events that could not be read."),
    "export": ("export", "Write a month's bills, payments and journal as files."),
    "explain": ("reports", "Tell the whole story of one user's bill."),
    "forget-rehearsal": ("ledger", "Remove what was billed in Stripe's test mode."),
    "grant": ("grants", "Grant a user an amount that pays for later bills."),
    "grants": ("grants", "List grants with what is left of each."),
    "hash-secret": ("people", "Make a person's line for ADMIN_SECRETS."),
    "hold": ("review", "Hold one user's bill, or everybody's, until it is released."),
    "init-db": ("ledger", "Make the ledger's tables, or bring them up to date."),
    "invoices": ("reports", "List every user's bill of a month."),
    "mail-preview": ("notices", "Show the mail that a user would get."),
    "metrics": ("servers", "Serve the ledger's numbers to Prometheus."),
    "move-user": ("users", "Record that usage moved from one user to another."),
    "preview": ("preview", "Show what billing a month would send. Nothing is sent or stored."),
    "prune": ("prune", "Remove what is past its retention."),
    "readiness": ("readiness", "Name users with usage who have no way to pay."),
    "reconcile": ("reports", "Compare frozen usage, ledger and Stripe to the cent."),
    "release": ("review", "Release bills that are held."),
    "revoke-grant": ("grants", "Take back what is left of a grant."),
    "serve": ("servers", "Serve Dagster's pages, the endpoints and the webhook, behind a secret."),
    "settle": ("corrections", "Close a bill that a person dealt with."),
    "simulate": ("simulate", "Say what users would have paid under other prices."),
    "status": ("status", "Say where a month, or every month, stands."),
    "store-test": ("store", "Test the store of frozen usage."),
    "stripe-double": ("servers", "Run a stand-in for Stripe on this machine."),
    "trigger": ("trigger", "Start billing on a server from elsewhere, and follow it."),
    "void": ("corrections", "Void one user's invoice, to be billed again or for good."),
}
"""Each command with the module that has it, and its line in the help."""

_OBJECTS_BETWEEN_COLLECTIONS = 200_000


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        # Imports leave hardly any garbage; looking for it after every 700 objects takes a fifth of the time.
        gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
        module = importlib.import_module(f"spell_billing.cli.{_COMMANDS[cmd_name][0]}")
        commands = [each for each in vars(module).values() if isinstance(each, click.Command)]
        return next(each for each in commands if each.name == cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in sorted(_COMMANDS.items())])

    def invoke(self, ctx: click.Context) -> Any:
        from spell_billing.cli.common import clear_errors  # noqa: PLC0415 - not for the help

        with clear_errors():
            return super().invoke(ctx)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="spell-billing")
def main() -> None:
    """Monthly usage billing: API calls in, finalized Stripe invoices out, each exactly once.

    Settings come from the environment; docs/settings.md lists them. Exit codes: 0 done, 1 could not run,
    2 wrong usage, 3 done but users are left without an invoice, or the month waits for its approval.
    """


def run() -> None:
    """Run the command line, and end the process.

    Python would free half a million objects one by one before it ends, which takes half a second; the system
    takes them all at once. Threads are waited for, and exit handlers that were registered since run as ever:
    ours, being the first, is the last to run.
    """
    status = 1

    def leave() -> None:
        # The reader may have read enough and gone, as `head` does.
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
        with contextlib.suppress(BrokenPipeError):
            sys.stderr.flush()
        os._exit(status)

    atexit.register(leave)
    try:
        main(prog_name="spell-billing")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
