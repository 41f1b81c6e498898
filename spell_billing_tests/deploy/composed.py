"""Reads deploy/ as Docker and its compose do, so that its services can run as processes of this machine."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
_INNERMOST = re.compile(r"\$\{([A-Z_]+)(?:(:[-?])([^${}]*))?\}")


class MissingVariableError(Exception):
    """A variable that has to be set is not."""


def substituted(text: str, variables: Mapping[str, str]) -> str:
    """Fill in `${NAME}`, `${NAME:-default}` and `${NAME:?message}`, one in another too."""

    def value(found: re.Match[str]) -> str:
        name, kind, rest = found.groups()
        if variables.get(name):
            return variables[name]
        if kind == ":?":
            raise MissingVariableError(name)
        return rest or ""

    before = ""
    while before != text:
        before, text = text, _INNERMOST.sub(value, text)
    return text


def composition(variables: Mapping[str, str]) -> Any:
    """Read compose.yaml with the variables filled in, after the text was read, as compose does."""

    def filled(value: Any) -> Any:
        if isinstance(value, str):
            return substituted(value, variables)
        if isinstance(value, list):
            return [filled(each) for each in value]
        return {name: filled(each) for name, each in value.items()} if isinstance(value, dict) else value

    return filled(yaml.safe_load((DEPLOY / "compose.yaml").read_text()))


class Image:
    """What the Dockerfile's last stage says: its settings, copies of our files, its folder and command."""

    def __init__(self) -> None:
        text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
        last = text[text.rindex("\nFROM ") :]
        lines = [line.split(maxsplit=1) for line in last.splitlines() if line.strip()]
        given = [(word, rest) for word, rest in lines if word.isupper()]
        self.environment = dict(
            pair.split("=", 1) for word, rest in given if word == "ENV" for pair in shlex.split(rest)
        )
        self.copies = [rest.split() for word, rest in given if word == "COPY" and "--from" not in rest]
        (self.folder,) = (rest for word, rest in given if word == "WORKDIR")
        (command,) = (rest for word, rest in given if word == "CMD")
        self.command: list[str] = yaml.safe_load(command)
