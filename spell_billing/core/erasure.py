"""Replaces a user's id by a pseudonym, in ids, texts and JSON, and touches nothing else."""

import re
import secrets
import shlex
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from spell_billing.core.shown import one_line

PSEUDONYM_PATTERN = "erased-[0-9a-f]{12}"
"""What the id of an erased user looks like; no user of the platform has such an id."""

_BEFORE = r"(?<![\w@./+-])"
_AFTER = r"(?![\w@/+-]|\.\w)"
_NAMES_A_USER = r"(?i:\busers?:?) | -> |, (?=\d+(?:,|\n|$))|: (?=\d+, \d{4}-\d\d)"


def new_pseudonym() -> str:
    """Return a random pseudonym: nothing about the user can be derived from it."""
    return f"erased-{secrets.token_hex(6)}"


def is_pseudonym(user_id: str) -> bool:
    """Return whether an id is an erased user's."""
    return re.fullmatch(PSEUDONYM_PATTERN, user_id) is not None


@dataclass(frozen=True)
class Erasure:
    """One user's id and the pseudonym that takes its place."""

    user_id: str
    pseudonym: str

    @property
    def forms(self) -> set[str]:
        """Return how the id stands in texts: as it is, quoted in a command, and either one on one line."""
        written = {self.user_id, shlex.quote(self.user_id)}
        return written | set(map(one_line, written))

    def in_text(self, text: str) -> str:
        """Return the text with the id replaced where it stands as a word of its own.

        An id that is a number is replaced only where the text names a user: amounts stay as they are.
        """
        return self._pattern.sub(lambda found: found[1] + self.pseudonym, text)

    def in_json(self, value: Any) -> Any:
        """Return what a JSON document holds, with the id replaced in all of its texts."""
        if isinstance(value, str):
            return self.pseudonym if value == self.user_id else self.in_text(value)
        if isinstance(value, list):
            return [self.in_json(each) for each in value]
        if isinstance(value, dict):
            return {name: self.in_json(each) for name, each in value.items()}
        return value

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        named = "|".join(re.escape(form) for form in sorted(self.forms, key=len, reverse=True))
        if not self.user_id.isdecimal():
            return re.compile(f"({_BEFORE})(?:{named}){_AFTER}")
        billing_key = r"\bspell:\d{4}-\d\d:"
        arrow = rf"{_BEFORE}(?=\d+ -> )"
        return re.compile(f"({_NAMES_A_USER}|{billing_key}|{arrow})(?:{named}){_AFTER}")
