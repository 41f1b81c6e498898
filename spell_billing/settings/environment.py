"""The base of all settings: they come from the environment alone, and print nothing of it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Self

from spell_billing.core.errors import SettingsError


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

    def _minutes(self, name: str, *, default: int, longest: int) -> timedelta:
        text = self._text(name) or str(default)
        if not text.isascii() or not text.isdigit() or len(text) > len(str(longest)) or int(text) > longest:
            raise SettingsError(
                f"{name}={text!r} is not a number of minutes.",
                remedy=f"Write a whole number from 0 to {longest}, as {default or 90}.",
            )
        return timedelta(minutes=int(text))

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
