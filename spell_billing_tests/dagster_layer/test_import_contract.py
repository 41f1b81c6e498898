"""The packages import only downwards, and the check that says so can fail."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def lint_imports(folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--config", "setup.cfg"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_import_contract_holds() -> None:
    checked = lint_imports(ROOT)

    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(
    ("module", "imported", "contract"),
    [
        ("core/month.py", "import sqlalchemy", "The core is pure"),
        ("usage/amounts.py", "import spell_billing.cli.bill", "Imports only go down the list of packages"),
        (
            "stripe_double/schema.py",
            "import spell_billing.invoicing.pace",
            "The Stripe double stands alone",
        ),
    ],
)
def test_a_wrong_import_breaks_it(tmp_path: Path, module: str, imported: str, contract: str) -> None:
    package = tmp_path / "spell_billing"
    shutil.copytree(ROOT / "spell_billing", package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    with (package / module).open("a", encoding="utf-8") as source:
        source.write(f"\n{imported}\n")

    checked = lint_imports(tmp_path)

    assert checked.returncode == 1
    assert f"{contract} BROKEN" in checked.stdout


@pytest.mark.parametrize("place", ["spell_billing/new_room.py", "spell_billing/orchestration/new_part.py"])
def test_a_module_without_a_place_breaks_it(tmp_path: Path, place: str) -> None:
    package = tmp_path / "spell_billing"
    shutil.copytree(ROOT / "spell_billing", package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    (tmp_path / place).write_text('"""A module that the contract does not know."""\n')

    checked = lint_imports(tmp_path)

    assert checked.returncode == 1
    assert Path(place).stem in checked.stdout
