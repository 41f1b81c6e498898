"""Every command of the docs is run by a test of this folder, or stands here with the reason."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from spell_billing_tests.command_line.documented.pages import ROOT, commands_of, documented

NOT_RUN = {
    "there is no container engine; deploy/test_compose.py runs the services as processes": (
        "docker buildx imagetools inspect python:3.13-slim --format '{{.Manifest.Digest}}'",
        (
            "docker build --file deploy/Dockerfile --build-arg PYTHON_IMAGE=python@sha256:... "
            "--tag spell-billing ."
        ),
        "export PYTHON_IMAGE=python@sha256:... POSTGRES_IMAGE=postgres@sha256:...",
        "docker compose --file deploy/compose.yaml up --build --detach",
    ),
    "there is no cluster; deploy/test_manifests.py checks the files": (
        "kubectl create namespace billing",
        (
            "kubectl --namespace billing create secret generic dagster-postgresql-secret "
            "--from-literal=postgresql-password=..."
        ),
        "kubectl --namespace billing create secret generic spell-billing --from-env-file=billing.env",
        "kubectl --namespace billing create secret generic spell-billing-serve --from-env-file=serve.env",
        "helm repo add dagster https://dagster-io.github.io/helm",
        (
            "helm upgrade --install dagster dagster/dagster --version 1.13.27 --namespace billing "
            "--values deploy/kubernetes/values.yaml"
        ),
        (
            "kubectl --namespace billing apply --filename deploy/kubernetes/serve.yaml "
            "--filename deploy/kubernetes/network.yaml"
        ),
    ),
    "it comes from the network": (
        "pip install 'spell-billing[lake]'",
        "pip install 'spell-billing[spark]'",
        "apt-get install chromium",
    ),
    "it takes minutes": ("make docs", "make lint", "make screenshots", "make soak", "make test"),
    "it changes the working copy": (
        "make clean",
        "RECORD_REFERENCE=1 python -m pytest spell_billing_tests/test_reference.py",
    ),
}
"""Commands that no test runs, and why."""
RUN_ELSEWHERE = {
    "make demo": "command_line/test_demo.py::shown",
    "make dev": "command_line/test_demo.py::shown",
    "awk": "inputs/test_access_log_import.py::test_the_awk_command_of_the_readme_prints_the_same_totals",
}
"""How commands begin that the named test or fixture runs."""


def run_here() -> set[str]:
    """Return the commands that tests of this folder give to `run` and `start`."""
    calls = (
        node
        for path in Path(__file__).parent.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if node.func.attr in {"run", "start"} and node.args
    )
    texts = (call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant))
    return {text for text in texts if isinstance(text, str)}


def test_every_command_of_the_docs_is_run() -> None:
    excused = {command for commands in NOT_RUN.values() for command in commands}
    elsewhere = tuple(f"{each} " for each in RUN_ELSEWHERE)
    wanted = {each for each in documented() if not f"{each} ".startswith(elsewhere)} - excused
    ran = run_here()

    assert {command: documented()[command] for command in wanted - ran} == {}
    assert ran & excused == set()


@pytest.mark.parametrize("command", [each for commands in NOT_RUN.values() for each in commands])
def test_a_command_that_is_not_run_is_in_the_docs_and_what_it_names_exists(command: str) -> None:
    assert command in documented()
    assert subprocess.run(["sh", "-nc", command], check=False).returncode == 0  # noqa: S607 - any POSIX shell

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"spell-billing\[(\w+)\]", command)) <= extras.keys()
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"^make (\w+)", command)) <= set(targets)
    files = re.findall(r"(?:deploy|spell_billing_tests)/\S+", command)
    assert [file for file in files if not (ROOT / file).exists()] == []


@pytest.mark.parametrize("begins", RUN_ELSEWHERE)
def test_a_command_that_is_run_elsewhere_is_in_the_docs_and_the_test_is_there(begins: str) -> None:
    file, name = RUN_ELSEWHERE[begins].split("::")

    assert any(each.startswith(begins) for each in documented())
    assert f"def {name}(" in (ROOT / "spell_billing_tests" / file).read_text()


def test_commands_are_found_in_blocks_sentences_and_tables() -> None:
    page = """\
# Page
```sh
export A=1    # why
spell-billing bill \\
    --month 2026-10
```
Then `spell-billing status`, or `curl -d '{}'
http://host`. `spell-billing void --for-good` is only named, `spell-billing void --month 2026-10` is wrong.

    spell-billing events

| a | `spell-billing erase-user ID` \\| `spell-billing erase-user` |
"""

    assert list(commands_of(page)) == [
        "export A=1",
        "spell-billing bill --month 2026-10",
        "spell-billing events",
        "spell-billing status",
        "curl -d '{}' http://host",
        "spell-billing void --month 2026-10",
        "spell-billing erase-user ID",
    ]
