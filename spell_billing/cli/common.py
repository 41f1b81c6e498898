"""What the commands share: options, one clear message for an error, the ledger and Stripe, output."""

import getpass
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
import orjson
from rich.console import Console
from sqlalchemy.exc import DBAPIError

from spell_billing.core.errors import MonthError, SpellBillingError, UsageError
from spell_billing.core.money import exact_number
from spell_billing.core.month import Month
from spell_billing.core.shown import one_line

if TYPE_CHECKING:
    from spell_billing.ledger.ledger import Ledger
    from spell_billing.ledger.rows import Actor
    from spell_billing.orchestration.resources import StripeResource

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


class UserType(click.ParamType[str]):
    """A user's id on the command line, which is not blank.

    Bills of blank users that an earlier version made are still explained, settled, voided and credited.
    """

    name = "ID"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the id, or fail as wrong usage where it is blank."""
        if not str(value).strip():
            self.fail("it is blank, and no user has such an id", param, ctx)
        return str(value)


class CentsType(click.IntRange):
    """An amount above zero on the command line, in minor units: 500 is five dollars."""

    def __init__(self) -> None:
        super().__init__(1, 2**63 - 1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the amount, or fail as wrong usage."""
        if isinstance(value, str) and not value.strip().lstrip("+-").isdecimal():
            self.fail(f"{value!r} is not a whole number of cents: write 500 for five dollars", param, ctx)
        return super().convert(value, param, ctx)


def month_option(*, required: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the `--month` option."""
    return click.option("--month", type=MonthType(), required=required, help="The month, as 2026-10.")


def _given(_: click.Context, parameter: click.Parameter, text: str) -> str:
    if not text.strip():
        raise click.BadParameter("say why", param=parameter)
    return text


user_option = click.option("--user", "user_id", metavar="ID", required=True, help="The platform's user.")
json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON for programs.")


def reason_option(
    text: str = "Why, in words, for the audit trail.", **default: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the `--reason` option: required without a `default`, and never blank."""
    return click.option(
        "--reason",
        metavar="TEXT",
        required=not default,
        show_default=bool(default),
        callback=_given,
        help=text,
        # An explicit default of None would count as given.
        **default,
    )


@contextmanager
def clear_errors() -> Iterator[None]:
    """End the command with one message and exit code 1 for what an operator can fix."""
    try:
        yield
    except SpellBillingError as error:
        fail(str(error))
    except DBAPIError as error:
        from spell_billing.ledger.privileges import refusal  # noqa: PLC0415 - only where it is needed
        from spell_billing.settings.billing import Settings  # noqa: PLC0415

        fail(str(refusal(error, Settings.from_environment().database)))


def say(text: str, *, err: bool = False) -> None:
    """Write a line, to standard error if asked; what it names may hold characters that act on a terminal."""
    click.echo(one_line(text), err=err)


def fail(message: str) -> NoReturn:
    """Write the message to standard error and exit with 1."""
    say(f"Error: {message}", err=True)
    sys.exit(EXIT_COULD_NOT_RUN)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise a UsageError that names a file which cannot be written."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written to: {error.strerror or error}.",
            remedy="Name a file in a folder that is there, may be written to and has room.",
        ) from error


def person() -> str:
    """Name who runs the command, for the audit trail."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def actor() -> "Actor":
    """Return who runs the command, as the audit trail has it."""
    from spell_billing.ledger.rows import Actor  # noqa: PLC0415 - heavy: SQLAlchemy

    return Actor(person())


def open_ledger() -> "Ledger":
    """Open the ledger of DATABASE_URL; close it after use (a context manager)."""
    from spell_billing.ledger.ledger import Ledger  # noqa: PLC0415 - heavy: SQLAlchemy
    from spell_billing.settings.billing import Settings  # noqa: PLC0415

    return Ledger(Settings.from_environment().database)


def stripe_account() -> "StripeResource":
    """Return the Stripe account of the settings, or raise what is wrong with its key or address."""
    from spell_billing.orchestration.resources import StripeResource  # noqa: PLC0415 - heavy: the SDK

    stripe = StripeResource()
    stripe.check()
    return stripe


def console() -> Console:
    """Return the console for tables: as wide as the terminal, or wide enough for a log.

    It prints texts as they are: a user id such as `team[/a]` is no markup.
    """
    return Console(width=None if sys.stdout.isatty() else 120, highlight=False, markup=False, emoji=False)


def write_json(data: object) -> None:
    """Write JSON; a decimal appears with all its digits, as a number."""
    click.echo(orjson.dumps(data, default=exact_number, option=orjson.OPT_INDENT_2))
