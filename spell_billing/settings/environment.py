"""The base of all settings: they come from the environment alone, and print nothing of it."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from spell_billing.core.errors import SettingsError

MOST = 10**12
"""A whole number without another limit is no larger."""


@dataclass(frozen=True, repr=False)
class EnvironmentSettings:
    """What the environment says. Every property checks its own setting, so a command needs only what it uses.

    Raises:
        SettingsError: from a property, naming the setting and the remedy, never its secret value.
    """

    environment: Mapping[str, str]

    @classmethod
    def from_environment(cls) -> Self:
        """Take the process's environment as it is now."""
        return cls(dict(os.environ))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(from the environment)"

    def _text(self, name: str) -> str | None:
        return self.environment.get(name, "").strip() or None

    def _number(self, name: str, default: int, *, of: str, least: int = 0, most: int = MOST) -> int:
        text = self._text(name) or str(default)
        number = _whole_number(text)
        if number is None or not least <= number <= most:
            raise SettingsError(
                f"{name}={text!r} is not a number of {of}.",
                remedy=f"Write a whole number from {least} to {most}, or leave it unset for {default}.",
            )
        return number

    def _numbers(self, name: str, default: str) -> list[int]:
        """Return whole numbers separated by commas; 0 stands for anything else."""
        text = self._text(name) or default
        return [_whole_number(part.strip()) or 0 for part in text.split(",")] if text else []

    def _rising(self, name: str, default: str, *, of: str, most: int, example: str) -> tuple[int, ...]:
        """Return whole numbers from 1 on in rising order, separated by commas."""
        numbers = self._numbers(name, default)
        if not all(0 < each <= most for each in numbers) or numbers != sorted(set(numbers)):
            raise SettingsError(
                f"{name}={self._text(name)!r} is not a list of {of}.",
                remedy=f"Write whole numbers from 1 to {most} in rising order, as {example}.",
            )
        return tuple(numbers)

    def _choice(self, name: str, *choices: str) -> str:
        """Return one of several words, by default the first."""
        text = (self._text(name) or choices[0]).lower()
        if text not in choices:
            raise SettingsError(
                f"{name}={text!r} is not one of its values.", remedy=f"Write {' or '.join(choices)}."
            )
        return text

    def _rate(self, name: str) -> float | None:
        text = self._text(name)
        if text is None:
            return None
        try:
            rate = float(text)
        except ValueError:
            rate = 0.0
        if not 0 < rate < float("inf"):
            raise SettingsError(f"{name}={text!r} is not a rate.", remedy="Write a number above 0, as 25.")
        return rate

    def _path(self, name: str) -> Path | None:
        text = self._text(name)
        if text is None:
            return None
        try:
            return Path(text).expanduser().absolute()
        except RuntimeError:
            raise SettingsError(
                f"{name}={text!r} begins with the home of a user that this machine does not know.",
                remedy="Write an absolute path.",
            ) from None


def _whole_number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(MOST)) else None


@contextmanager
def usable_folder(path: Path, settings: str) -> Iterator[None]:
    """Make a folder, with those above it; what a folder refuses in the block becomes a SettingsError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be used: {error.strerror or error}.",
            remedy=f"Set {settings} to a folder that this user may write, with room for more.",
        ) from error
