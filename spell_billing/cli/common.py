"""What the commands share: the month option, one clear message for an error, output."""

import getpass
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
import orjson
from rich.console import Console
from sqlalchemy.exc import DBAPIError

from spell_billing.core.errors import MonthError, SpellBillingError
from spell_billing.core.money import exact_number
from spell_billing.core.month import Month

EXIT_COULD_NOT_RUN = 1
EXIT_USERS_LEFT = 3


class MonthType(click.ParamType[Month]):
    """A month on the command line, as 2026-10."""

    name = "YYYY-MM"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Month:
        """Read the month, or fail as wrong usage."""
        try:
            return Month.parse(str(value))
        except MonthError as error:
            self.fail(str(error), param, ctx)


def month_option(*, required: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the `--month` option."""
    return click.option("--month", type=MonthType(), required=required, help="The month, as 2026-10.")


def whom_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return the options `--user` and `--all`, of which `require_one` wants one, and a reason."""
    reason = click.option(
        "--reason",
        metavar="TEXT",
        default="no reason given",
        help="Why, in words, for the audit trail.",
        show_default=True,
    )
    everybody = click.option("--all", "everybody", is_flag=True, help="Every bill of the month.")
    return click.option("--user", "user_id", metavar="ID", help="The platform's user.")(
        everybody(reason(command))
    )


def require_one(user_id: str | None, *, everybody: bool) -> None:
    """Refuse neither and both of `--user` and `--all` as wrong usage."""
    if (user_id is not None) == everybody:
        raise click.UsageError("Give either --user or --all.")


json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON for programs.")


@contextmanager
def clear_errors() -> Iterator[None]:
    """End the command with one message and exit code 1 when something a person can fix is wrong."""
    try:
        yield
    except SpellBillingError as error:
        fail(str(error))
    except DBAPIError as error:
        from spell_billing.settings.databases import refused_statement  # noqa: PLC0415 - only where it is needed

        fail(str(refused_statement(error)))


def fail(message: str) -> None:
    """Write the message to standard error and exit with 1."""
    click.echo(f"Error: {message}", err=True)
    sys.exit(EXIT_COULD_NOT_RUN)


def person() -> str:
    """Name who runs the command, for the audit trail."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def console() -> Console:
    """Return the console for tables: as wide as the terminal, or wide enough for a log.

    It prints texts as they are: a user id such as `team[/a]` is no markup.
    """
    return Console(width=None if sys.stdout.isatty() else 120, highlight=False, markup=False, emoji=False)


def write_json(data: object) -> None:
    """Write JSON; a decimal appears with all its digits, as a number."""
    click.echo(orjson.dumps(data, default=exact_number, option=orjson.OPT_INDENT_2))
