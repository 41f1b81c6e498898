"""Folders that settings name: made where they are missing, and named where they cannot be used."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spell_billing.core.errors import SettingsError


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
