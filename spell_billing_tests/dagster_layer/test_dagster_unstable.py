"""What we use of Dagster beyond its promises: in one module, and each name named when an upgrade drops it."""

import importlib
import re
from pathlib import Path

import dagster as dg
import pytest

import spell_billing

PACKAGE = Path(spell_billing.__file__).parent
PRIVATE = re.compile(r"^\s*(?:from|import)\s+(dagster\w*\.\S+)", re.MULTILINE)


def private_imports(path: Path) -> list[str]:
    return [name for name in PRIVATE.findall(path.read_text()) if "._" in name or "graphql" in name]


def test_no_other_module_imports_private_names() -> None:
    found = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if private_imports(path)}

    assert found == {"orchestration/unstable.py"}


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("dagster._core.execution.backfill", "PartitionBackfill"),
        ("dagster._core.workspace.context", "WorkspaceProcessContext"),
        ("dagster._core.workspace.context", "WorkspaceRequestContext"),
        ("dagster._core.workspace.load_target", "ModuleTarget"),
        ("dagster._core.workspace.load_target", "WorkspaceFileTarget"),
        ("dagster._core.workspace.load_target", "WorkspaceLoadTarget"),
        ("dagster._serdes", "ConfigurableClassData"),
        ("dagster_graphql.schema", "create_schema"),
    ],
)
def test_dagster_still_has(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name), f"dagster {dg.__version__} has no {module}.{name}"
