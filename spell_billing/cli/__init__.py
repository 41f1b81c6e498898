"""The command line. Commands load when they are called, so that help appears at once."""

import atexit
import gc
import importlib
import os
import sys

import click

_COMMANDS = {
    "alert-test": "Send a test alert on every channel.",
    "approve": "Approve a month that is in review, as reviewed.",
    "bill": "Bill a closed month: freeze, draft, send to Stripe. Safe to repeat.",
    "credit": "Give back some or all of one user's invoice.",
    "erase-user": "Replace a user's id by a pseudonym everywhere.",
    "events": "List Stripe events that could not be read.",
    "explain": "Tell the whole story of one user's bill.",
    "forget-rehearsal": "Remove what was billed in Stripe's test mode.",
    "hold": "Hold one user's bill, or everybody's, until it is released.",
    "init-db": "Make the ledger's tables, or bring them up to date.",
    "invoices": "List every user's bill of a month.",
    "mail-preview": "Show the mail that a user would get.",
    "metrics": "Serve the ledger's numbers to Prometheus.",
    "move-user": "Record that usage moved from one user to another.",
    "preview": "Show what billing a month would send. Nothing is sent or stored.",
    "readiness": "Name users with usage who have no way to pay.",
    "reconcile": "Compare frozen usage, ledger and Stripe to the cent.",
    "release": "Release bills that are held.",
    "serve": "Serve Dagster's pages, the endpoints and the webhook, behind a secret.",
    "settle": "Close a bill that a person dealt with.",
    "status": "Say where a month, or every month, stands.",
    "stripe-double": "Run a stand-in for Stripe on this machine.",
    "trigger": "Start billing on a server from elsewhere, and follow it.",
    "void": "Void one user's invoice, to be billed again or for good.",
}

_OBJECTS_BETWEEN_COLLECTIONS = 200_000


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        # Imports leave hardly any garbage; looking for it after every 700 objects takes a fifth of the time.
        gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
        module = importlib.import_module(f"spell_billing.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(sorted(_COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="spell-billing")
def main() -> None:
    """Monthly usage billing: API calls in, finalized Stripe invoices out, each exactly once.

    Settings come from the environment; docs/settings.md lists them. Exit codes: 0 done, 1 could not run,
    2 wrong usage, 3 done but users are left without an invoice, or the month waits for its approval.
    """


def run() -> None:
    """Be this process's command line, and end the process.

    Python would free half a million objects one by one before it ends, which takes half a second; the system
    takes them all at once. Threads are waited for, and exit handlers that were registered since run as ever:
    ours, being the first, is the last to run.
    """
    status = 1

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    atexit.register(leave)
    try:
        main(prog_name="spell-billing")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
