"""The tables of settings and commands in the docs are what the code says.

`RECORD_REFERENCE=1 python -m pytest spell_billing_tests/test_reference.py` writes them anew.
"""

import inspect
import os
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import click

from spell_billing.cli import main
from spell_billing.mail.settings import MailSettings
from spell_billing.payments.stripe_events import TYPES
from spell_billing.settings.billing import Settings
from spell_billing.settings.bills import BillSettings
from spell_billing.settings.notifications import NotificationSettings
from spell_billing.settings.review import ReviewSettings
from spell_billing.web.settings import WebSettings

ROOT = Path(__file__).parents[1]
SETTINGS = (Settings, BillSettings, WebSettings, ReviewSettings, NotificationSettings, MailSettings)
READ_BY_DAGSTER = ["DAGSTER_POSTGRES_URL"]


def settings() -> Iterator[tuple[str, str, str]]:
    """Give name, default and description of each setting, by the docstrings of its class."""
    for group in SETTINGS:
        for member in vars(group).values():
            if isinstance(member, cached_property):
                text = " ".join(inspect.cleandoc(member.func.__doc__ or "").split())
                found = re.fullmatch(r"`([A-Z_]+)`: (.+) Default: (.+)\.", text)
                assert found, f"{group.__name__}.{member.attrname} says not what it is: {text}"
                name, description, default = found.groups()
                yield name, default, description[0].upper() + description[1:]


def commands() -> Iterator[tuple[str, str]]:
    """Give how each command is called, and what it does, by its own help."""
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        parts = [
            part
            for required in (True, False)
            for parameter in command.params
            if parameter.required is required
            for part in [usage(parameter, click.Context(command))]
        ]
        does = (inspect.cleandoc(command.help or "").split("\n\n"))[0]
        yield " ".join(["spell-billing", name, *parts]), " ".join(does.split())


def usage(parameter: click.Parameter, context: click.Context) -> str:
    if isinstance(parameter, click.Argument):
        return parameter.human_readable_name
    assert isinstance(parameter, click.Option)
    value = "" if parameter.is_flag else f" {parameter.make_metavar(context)}"
    text = f"{parameter.opts[-1]}{value}"
    return text if parameter.required else f"[{text}]"


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    cells = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def require_table(page: Path, head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Compare the page's table with that head, or write it where that is asked for."""
    begin = f"| {' | '.join(head)} |\n"
    text = page.read_text()
    start = text.index(begin)
    end = text.index("\n\n", start) + 1
    if os.environ.get("RECORD_REFERENCE"):
        page.write_text(text[:start] + table(head, rows) + text[end:])
    else:
        assert text[start:end] == table(head, rows)


def test_the_docs_list_every_setting_as_the_code_has_it() -> None:
    rows = [(f"`{name}`", default, description) for name, default, description in settings()]

    require_table(ROOT / "docs" / "settings.md", ("setting", "default", "what it is"), rows)


def test_the_readme_lists_every_command_as_its_help_has_it() -> None:
    rows = [(f"`{call}`", does) for call, does in commands()]

    require_table(ROOT / "README.md", ("command", "what it does"), rows)


def test_the_docs_name_the_events_that_the_webhook_should_get() -> None:
    (named,) = re.findall(
        r"The events to choose there: ([^;]+?)\. What", (ROOT / "docs" / "serve.md").read_text()
    )

    assert sorted(re.findall(r"`([a-z_.]+)`", named)) == sorted(TYPES)


def test_the_example_names_every_setting_and_no_other() -> None:
    named = re.findall(r"^(?:# )?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)

    assert sorted(named) == sorted([*(name for name, *_ in settings()), *READ_BY_DAGSTER])
