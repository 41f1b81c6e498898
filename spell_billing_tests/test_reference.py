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
from spell_billing.core.outcomes import REMEDIES, Reason
from spell_billing.invoicing.findings import Finding, Kind
from spell_billing.mail.settings import MailSettings
from spell_billing.payments.stripe_events import TYPES
from spell_billing.reporting.finance import DATASETS
from spell_billing.reporting.readiness import REMEDIES as GAP_WORDS
from spell_billing.reporting.readiness import Gap
from spell_billing.settings.billing import Settings
from spell_billing.settings.bills import BillSettings
from spell_billing.settings.notifications import NotificationSettings
from spell_billing.settings.review import ReviewSettings
from spell_billing.stripe_api.permissions import PERMISSIONS
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


def test_the_docs_list_every_command_as_its_help_has_it() -> None:
    rows = [(f"`{call}`", does) for call, does in commands()]

    require_table(ROOT / "docs" / "commands.md", ("command", "what it does"), rows)


def test_the_docs_list_what_a_restricted_key_must_be_allowed() -> None:
    rows = [(each.row, each.level, f"`{each.name}`", each.purpose) for each in PERMISSIONS]
    head = ("row in Stripe's form", "choose", "name", "for")

    require_table(ROOT / "docs" / "permissions.md", head, rows)


def test_the_docs_list_every_reason_finding_and_gap_with_its_remedy() -> None:
    page = ROOT / "docs" / "troubleshooting.md"
    head = "what to do"

    reasons = [(f"`{each}`", REMEDIES[each]) for each in Reason]
    require_table(page, ("reason", "what it means, and what to do"), reasons)
    found = [(f"`{each}`", Finding(each, "u", None, "", "").remedy) for each in Kind]
    require_table(page, ("finding", head), found)
    require_table(page, ("gap", head), [(f"`{each}`", GAP_WORDS[each]) for each in Gap])


def test_the_docs_list_every_column_of_the_files_for_finance() -> None:
    heads = ("column", "column of payments", "column of journal")

    for dataset, column in zip(DATASETS, heads, strict=True):
        rows = [(f"`{each.name}`", str(each.type), each.about) for each in dataset.columns]
        require_table(ROOT / "docs" / "finance.md", (column, "type", "what it is"), rows)


def test_every_command_in_the_docs_is_one() -> None:
    wrong = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        text = re.sub(r"\\\s*\n\s*", " ", page.read_text())
        for call in re.findall(r"(?:^|`)(?:[A-Z_]+=\S+ )*spell-billing ([a-z][^`\n]*)", text, re.MULTILINE):
            name, *words = call.replace("|", " ").split()
            command = main.get_command(click.Context(main), name)
            known = {each for option in command.params for each in option.opts} if command else set()
            options = {word.strip("[]") for word in words if re.match(r"\[?--[a-z]", word)}
            if command is None or not options <= known | {"--help"}:
                wrong.append(f"{page.name}: spell-billing {call}")

    assert wrong == []


def test_the_docs_name_the_events_that_the_webhook_should_get() -> None:
    (named,) = re.findall(
        r"The events to choose there: ([^;]+?)\. What", (ROOT / "docs" / "serve.md").read_text()
    )

    assert sorted(re.findall(r"`([a-z_.]+)`", named)) == sorted(TYPES)


def test_the_example_names_every_setting_and_no_other() -> None:
    named = re.findall(r"^(?:# )?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)

    assert sorted(named) == sorted([*(name for name, *_ in settings()), *READ_BY_DAGSTER])
