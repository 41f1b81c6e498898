"""What pages of the reference say of the code is what it says itself.

`RECORD_REFERENCE=1 python -m pytest spell_billing_tests/test_reference.py` writes them anew.
"""

import inspect
import re
from collections.abc import Iterator
from functools import cached_property, partial

import click

from spell_billing.cli import main
from spell_billing.core.month import Month
from spell_billing.core.outcomes import REMEDIES, Reason
from spell_billing.invoicing.findings import Finding, Kind
from spell_billing.ledger.figures import read_figures
from spell_billing.ledger.ledger import Ledger
from spell_billing.mail.settings import MailSettings
from spell_billing.payments.stripe_events import TYPES
from spell_billing.reporting.finance import DATASETS
from spell_billing.reporting.metrics import LedgerCollector
from spell_billing.reporting.readiness import REMEDIES as GAP_WORDS
from spell_billing.reporting.readiness import Gap
from spell_billing.settings.billing import Settings
from spell_billing.settings.bills import BillSettings
from spell_billing.settings.databases import parse_database_url
from spell_billing.settings.notifications import NotificationSettings
from spell_billing.settings.review import ReviewSettings
from spell_billing.stripe_api.permissions import PERMISSIONS
from spell_billing.web.error_codes import CODES, WRONG_PARAMETER
from spell_billing.web.errors import HTTP_ERRORS
from spell_billing.web.settings import WebSettings
from spell_billing_tests.reference.endpoints import endpoints
from spell_billing_tests.reference.ledger import ledger_tables
from spell_billing_tests.reference.pages import DOCS, ROOT, require_rest, require_table

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


def test_the_docs_list_every_setting_as_the_code_has_it() -> None:
    rows = [(f"`{name}`", default, description) for name, default, description in settings()]

    require_table("settings.md", ("setting", "default", "what it is"), rows)


def test_the_docs_list_every_command_as_its_help_has_it() -> None:
    rows = [(f"`{call}`", does) for call, does in commands()]

    require_table("commands.md", ("command", "what it does"), rows)


def test_the_docs_list_what_a_restricted_key_must_be_allowed() -> None:
    rows = [(each.row, each.level, f"`{each.name}`", each.purpose) for each in PERMISSIONS]
    head = ("row in Stripe's form", "choose", "name", "for")

    require_table("permissions.md", head, rows)


def test_the_docs_describe_every_endpoint_as_the_server_does() -> None:
    require_rest("endpoints.md", endpoints())


def test_every_code_of_an_error_is_answered_with_its_status() -> None:
    sources = {path.name: path.read_text() for path in (ROOT / "spell_billing" / "web").glob("*.py")}
    del sources["error_codes.py"]
    text = "\n".join(sources.values())
    answered = {(int(status), code) for status, code in re.findall(r'\b([45]\d\d),\s*"([a-z_]+)"', text)}
    answered |= {(status, code) for status, (code, *_) in HTTP_ERRORS.items()}
    listed = {(status, code) for code, (status, _) in CODES.items()}

    assert answered <= listed
    by_place = {"wrong_body", WRONG_PARAMETER}
    assert [code for code in CODES.keys() - by_place if f'"{code}"' not in text] == []


def test_the_docs_describe_every_table_and_column_of_the_ledger() -> None:
    require_rest("ledger.md", ledger_tables())


def test_the_docs_list_every_metric_with_its_labels_and_help(sqlite_url: str) -> None:
    with Ledger(parse_database_url(sqlite_url, setting="DATABASE_URL")) as ledger:
        figures = ledger.read(partial(read_figures, first=Month(2026, 1), latest_months=1))
    rows = [
        (
            f"`{each.name}{'_total' if each.type == 'counter' else ''}`",
            each.type,
            ", ".join(getattr(each, "_labelnames", ())),
            each.documentation,
        )
        for each in LedgerCollector(figures).collect()
    ]

    require_table("metrics.md", ("metric", "type", "labels", "what it is"), rows)


def test_the_docs_list_every_reason_finding_and_gap_with_its_remedy() -> None:
    page = "troubleshooting.md"
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
        require_table("finance.md", (column, "type", "what it is"), rows)


def test_every_command_in_the_docs_is_one() -> None:
    wrong = []
    for page in (ROOT / "README.md", *sorted(DOCS.rglob("*.md"))):
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
    (named,) = re.findall(r"The events to choose there: ([^;]+?)\. What", (DOCS / "serve.md").read_text())

    assert sorted(re.findall(r"`([a-z_.]+)`", named)) == sorted(TYPES)


def test_the_example_names_every_setting_and_no_other() -> None:
    named = re.findall(r"^(?:# )?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)

    assert sorted(named) == sorted([*(name for name, *_ in settings()), *READ_BY_DAGSTER])
