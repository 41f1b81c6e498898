"""The base of all settings: they come from the environment alone, and print nothing of it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self


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
