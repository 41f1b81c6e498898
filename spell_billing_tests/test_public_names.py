"""The public names of the package are those that docs/python.md promises, with the same signatures.

`RECORD_REFERENCE=1 python -m pytest spell_billing_tests/test_public_names.py` writes its table anew.
"""

import importlib
import inspect
import re
import tomllib
from pathlib import Path
from typing import Any

import dagster as dg

from spell_billing_tests.reference.pages import ROOT, require_table

PUBLIC = {
    "spell_billing.orchestration.build": ("build_defs",),
    "spell_billing.orchestration.resources": (
        *("LedgerResource", "UsageResource", "StripeResource", "AlertResource"),
    ),
    "spell_billing.frames": ("invoices", "payments", "journal"),
    "spell_billing.core.month": ("Month",),
    "spell_billing.core.money": ("round_half_up", "format_money"),
    "spell_billing.core.outcomes": ("State", "Reason"),
    "spell_billing.core.plans": ("PlanSpan", "Discount", "month_plan"),
    "spell_billing.core.errors": ("SpellBillingError", "SettingsError", "UsageError", "LedgerError"),
}


def row(module: str, name: str) -> tuple[str, str, str]:
    """Give a name, how it is called, and the first sentence of its docstring."""
    value: Any = getattr(importlib.import_module(module), name)
    words = re.split(r"(?<=[.:])\s", " ".join((inspect.getdoc(value) or "").split()))[0]
    return f"`{module}.{name}`", signature(value), words.replace(":", ".")


def signature(value: Any) -> str:
    if inspect.isclass(value):
        if issubclass(value, dg.ConfigurableResource):
            return ", ".join(f"`{field}`" for field in value.model_fields)
        if hasattr(value, "__members__"):
            return "an enumeration"
        if issubclass(value, Exception):
            return "`message`, `remedy`"
    parameters = inspect.signature(value).parameters.values()
    return ", ".join(f"`{str(each).partition(':')[0].partition('=')[0]}`" for each in parameters)


def test_the_public_names_are_those_of_the_docs() -> None:
    rows = [row(module, name) for module, names in PUBLIC.items() for name in names]

    assert all(words.endswith(".") for *_, words in rows)
    require_table("python.md", ("name", "signature", "what it is"), rows)


def test_the_package_is_typed_and_its_version_is_a_semantic_one_that_the_changelog_has() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    version = project["project"]["version"]

    assert (ROOT / "spell_billing" / "py.typed").is_file()
    assert "py.typed" in project["tool"]["setuptools"]["package-data"]["spell_billing"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_workflow_runs_what_everybody_runs() -> None:
    workflow = Path(ROOT / ".github" / "workflows" / "ci.yml").read_text()

    assert "run: .ci/run" in workflow
    assert not re.search(r"uses: \S+@v", workflow), "actions are pinned by their commit"
