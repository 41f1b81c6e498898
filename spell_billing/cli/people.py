"""Who may do what on the server: `hash-secret` makes a person's line."""

import sys

import click

from spell_billing.cli.common import say


@click.command("hash-secret")
@click.option("--name", metavar="NAME", required=True, help="Who it is, as anna or anna@example.com.")
@click.option(
    "--role",
    type=click.Choice(["view", "operate", "approve"]),
    required=True,
    help="What the person may do; each role includes the ones before it.",
)
def hash_secret(name: str, role: str) -> None:
    """Make a person's line for ADMIN_SECRETS, from a secret that is asked for or comes on standard input.

    The line holds the secret's hash, not the secret: each person can make the own line, and hand it over.
    """
    from spell_billing.web.people import line_of  # noqa: PLC0415 - not for the help

    if sys.stdin.isatty():
        secret = click.prompt("Secret", hide_input=True, confirmation_prompt=True, err=True)
    else:
        secret = sys.stdin.readline().strip()
    say(line_of(name, role, secret))
