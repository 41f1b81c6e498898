"""Every command that README, docs and examples give, as it stands there."""

import re
import shlex
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click

from spell_billing.cli import main

ROOT = Path(__file__).parents[3]
PAGES = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
)
_PROGRAM = re.compile(
    r"(?:[A-Z_]+=(?:\$\([^)]*\)|\S+) )*(?:\.venv/bin/|\.demo/)?(?:"
    r"apt-get install|awk|curl|dagster-daemon|dg|docker|export|helm|kubectl|make|openssl|pip install|psql|"
    r"python|spell-billing|sqlite3|scripts/\S+) \S"
)
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_SHELLS = {"sh", "bash", "shell", "console"}
_SYNOPSES = re.compile(r"^\| command \| what it does \|\n(?:\|.*\n)*", re.MULTILINE)
"""The table of commands.md, which is made of the commands' own help."""


def commands_of(page: str) -> Iterator[str]:
    """Give each command of a page's text: those of blocks line by line, and those in sentences and tables."""
    blocks = [match[3] for match in _FENCE.finditer(page) if match[2] in _SHELLS]
    rest = _SYNOPSES.sub("", _FENCE.sub("", page))
    blocks += [line for line in re.findall(r"^ {4,}(.*)", rest, re.MULTILINE) if _PROGRAM.match(line)]
    for block in blocks:
        yield from _logical_lines(block)
    for span in re.findall(r"`([^`]+)`", rest):
        text = " ".join(span.replace(r"\|", "|").split())
        if _PROGRAM.match(text) and not _only_names_a_command(text):
            yield text


def _logical_lines(block: str) -> Iterator[str]:
    """Give a block's commands without comments, each on one line unless a quoted text has several."""
    command = ""
    for line in block.splitlines():
        command += re.sub(r"\s+#\s.*$", "", line.strip())
        if command.endswith("\\"):
            command = command[:-1]
        elif _is_whole(command):
            if command:
                yield command
            command = ""
        else:
            command += "\n"
    assert not command, command


def _is_whole(command: str) -> bool:
    try:
        shlex.split(command)
    except ValueError:
        return False
    return True


def _only_names_a_command(text: str) -> bool:
    """Tell a name, as `spell-billing void --for-good`, from a command: it gives nothing that is required."""
    program, name, *words = text.split()
    command = main.get_command(click.Context(main), name) if program == "spell-billing" else None
    required = [each for each in command.params if each.required] if command else []
    options = [option for each in required if isinstance(each, click.Option) for option in each.opts]
    argument = any(isinstance(each, click.Argument) for each in required) and words[:1]
    return bool(required) and not argument and not any(each in options for each in words[:-1])


@cache
def documented() -> dict[str, str]:
    """Return each command, and the pages that give it."""
    found: dict[str, list[str]] = {}
    for page in PAGES:
        for command in commands_of(page.read_text()):
            found.setdefault(command, []).append(str(page.relative_to(ROOT)))
    return {command: ", ".join(dict.fromkeys(pages)) for command, pages in found.items()}


def block(page: str, language: str, *, holding: str) -> str:
    """Return the one block of a page in a language that holds some words, without its indentation."""
    found = (match for match in _FENCE.finditer((ROOT / page).read_text()) if match[2] == language)
    (text,) = (textwrap.dedent(match[3]) for match in found if holding in match[3])
    return text
