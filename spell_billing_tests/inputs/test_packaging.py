import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# One pinned package with its hashes: a name, extras, a version, a marker. Nothing that says where it lies.
PIN = re.compile(r"(?P<pin>[a-z0-9._-]+(\[[a-z0-9,-]+\])?==[0-9a-z.+]+)( ; [A-Za-z0-9_.'<>=!() -]+)? \\")
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")
# Where a package would be fetched from, in any file.
DOWNLOAD_ADDRESS = re.compile(
    r"""--(extra-)?index-url | --find-links | PIP_(EXTRA_)?INDEX | UV_(DEFAULT_)?INDEX
    | ://[^\s"'`]*(/simple\b | \.whl\b | \.tar\.gz) | ://[^/\s"'`]*pypi
    | \bpip\ install\b.*://""",
    re.VERBOSE,
)
LOCKS = ("requirements.lock", "requirements-dev.lock")


def read_pins(lock: Path) -> dict[str, set[str]]:
    """Give the pinned versions of each package: more than one when it depends on the Python."""
    pins: dict[str, set[str]] = {}
    for match in PIN.finditer(lock.read_text()):
        requirement = Requirement(match["pin"])
        versions = {specifier.version for specifier in requirement.specifier}
        pins.setdefault(canonicalize_name(requirement.name), set()).update(versions)
    return pins


@pytest.mark.parametrize("name", [*LOCKS, "scripts/installer.lock"])
def test_a_lock_file_holds_pins_and_hashes_and_nothing_else(repository: Path, name: str) -> None:
    lines = (repository / name).read_text().splitlines()
    strange = [
        line for line in lines if not (line.startswith("#") or PIN.fullmatch(line) or HASH.fullmatch(line))
    ]
    assert strange == []


@pytest.mark.parametrize("name", LOCKS)
def test_every_dependency_of_the_project_is_pinned_to_a_version_it_allows(
    repository: Path, name: str
) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())
    wanted = project["project"]["dependencies"] + project["build-system"]["requires"]
    if "dev" in name:
        wanted += project["project"]["optional-dependencies"]["dev"]
    pins = read_pins(repository / name)
    unpinned = [
        text
        for text in wanted
        if not (versions := pins.get(canonicalize_name(Requirement(text).name)))
        or not all(version in Requirement(text).specifier for version in versions)
    ]
    assert unpinned == [], f"{name} is out of date: run make lock"


def test_the_tools_are_locked_with_the_very_packages_that_run_in_production(repository: Path) -> None:
    runtime, tools = (read_pins(repository / name) for name in LOCKS)
    assert {package: tools.get(package) for package in runtime} == runtime


def test_no_file_of_the_repository_says_where_packages_are_fetched(repository: Path) -> None:
    git = shutil.which("git")
    if git is None or not (repository / ".git").exists():
        pytest.skip("this is no git checkout, so nothing tells which files belong to it")
    listed = subprocess.run(
        [git, "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    paths = [repository / name for name in listed.split("\0") if name]
    # This file has examples of what must not be: see the test after this one.
    paths.remove(Path(__file__))
    found = [
        f"{path.relative_to(repository)}:{number}: {line.strip()[:120]}"
        for path in paths
        if path.is_file()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1)
        if DOWNLOAD_ADDRESS.search(line)
    ]
    assert len(paths) > 10
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://packages.example.com/simple",
        "pip install --find-links /srv/wheels",
        "thing @ https://example.com/thing-1.0-py3-none-any.whl",
        "pip install https://example.com/thing",
        "export PIP_INDEX_URL=x",
    ],
)
def test_a_download_address_would_be_found(line: str) -> None:
    assert DOWNLOAD_ADDRESS.search(line)


def fake_python(folder: Path, name: str, *, exit_code_of_version: int = 0, has_venv: bool = True) -> None:
    """Write a Python that answers the questions of scripts/find-python and nothing else."""
    path = folder / name
    path.write_text(
        "#!/bin/sh\n"
        'case "$2" in\n'
        f"*ensurepip*) exit {0 if has_venv else 1} ;;\n"
        f"*exit*) exit {exit_code_of_version} ;;\n"
        "*print*) echo 3.12 ;;\n"
        "esac\n"
    )
    path.chmod(0o755)


def find_python(repository: Path, folder: Path, chosen: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", str(repository / "scripts" / "find-python")],
        env={"PATH": str(folder), "PYTHON": chosen},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_newest_python_that_works_is_chosen(repository: Path, tmp_path: Path) -> None:
    fake_python(tmp_path, "python3.13", exit_code_of_version=127)  # as a version manager's empty shim
    fake_python(tmp_path, "python3.12", has_venv=False)
    fake_python(tmp_path, "python3.11")
    fake_python(tmp_path, "python3")

    assert find_python(repository, tmp_path).stdout == f"{tmp_path}/python3.11\n"
    assert find_python(repository, tmp_path, chosen="python3").stdout == f"{tmp_path}/python3\n"


def test_no_python_a_too_old_one_and_one_without_venv_are_each_named_with_the_remedy(
    repository: Path, tmp_path: Path
) -> None:
    nothing = find_python(repository, tmp_path)
    fake_python(tmp_path, "python3", exit_code_of_version=1)
    too_old = find_python(repository, tmp_path, chosen="python3")
    fake_python(tmp_path, "python3", has_venv=False)
    without_venv = find_python(repository, tmp_path)

    assert [nothing.returncode, too_old.returncode, without_venv.returncode] == [1, 1, 1]
    assert "No Python 3.11 or newer was found" in nothing.stderr
    assert "PYTHON=python3 is no Python 3.11 or newer" in too_old.stderr
    assert "apt-get install python3.12-venv" in without_venv.stderr


def test_the_wheel_holds_the_product_without_the_stand_in_and_the_demo(
    repository: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    shutil.copytree(repository / "spell_billing", source / "spell_billing")
    for name in ("pyproject.toml", "README.md", "setup.cfg"):
        shutil.copy(repository / name, source / name)
    build = "from setuptools.build_meta import build_wheel; build_wheel('.')"

    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)

    (wheel,) = source.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "spell_billing/invoicing/drive.py" in names
    assert "spell_billing/web/templates/billing.html" in names
    assert [name for name in names if "stripe_double/" in name or "/demo/" in name] == []
    unpacked = tmp_path / "unpacked"
    shutil.unpack_archive(wheel, unpacked, "zip")
    load = (
        "import sys; sys.path.insert(0, sys.argv[1]); import spell_billing.cli, spell_billing.web.server, "
        "spell_billing.definitions as loaded; assert loaded.__file__.startswith(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", load, str(unpacked)], cwd=tmp_path, check=True, capture_output=True)
