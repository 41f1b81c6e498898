"""The last barrier before a text leaves for people: nothing that looks like a secret passes."""

import os
import re
from collections.abc import Iterable
from urllib.parse import unquote

from spell_billing.settings.notifications import split_urls

MASK = "***"
_SHAPES = (
    # Stripe's keys and signing secrets.
    (re.compile(r"\b((?:sk|rk|pk)_(?:live|test)|whsec)_[A-Za-z0-9_*]+"), rf"\1_{MASK}"),
    # The user and password of a URL.
    (re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#]*@"), rf"\1{MASK}@"),
    # libpq's and HTTP's ways to name a password.
    (
        re.compile(r"(?i)\b(password|passwd|pwd|secret|token|api[_-]?key|authorization)(\s*[=:]\s*)\S+"),
        rf"\1\2{MASK}",
    ),
)
_SECRET_SETTINGS = re.compile(r"(?i)(KEY|SECRET|PASSWORD|TOKEN)$")
_URL_SETTINGS = re.compile(r"(?i)URLS?$")
_SHORTEST_SECRET = 6
"""Shorter pieces are ports and words that appear in any text."""


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Mask what is secret in a text.

    Masked are the given secrets, the values of this process's secret settings (`..._KEY`, `..._SECRET`,
    `..._PASSWORD`, `..._TOKEN`, the passwords within `..._URL`), and whatever has the shape of a Stripe key,
    of a URL with a login, or of a named password.
    """
    for secret in sorted({*secrets, *_environment_secrets()}, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, MASK)
    for shape, replacement in _SHAPES:
        text = shape.sub(replacement, text)
    return text


def url_secrets(url: str) -> frozenset[str]:
    """Return the pieces of an alert channel's URL that may be secret: all but the scheme and short words.

    Services put their tokens anywhere: into the login, the host, the path or the query.
    """
    _, _, rest = url.partition("://")
    return _decoded({rest, *re.split(r"[/?&=:@#,+]", rest)})


def _environment_secrets() -> frozenset[str]:
    found: set[str] = set()
    for name, value in os.environ.items():
        if _SECRET_SETTINGS.search(name):
            found.add(value)
        elif name in {"ALERT_URLS", "EVENT_URLS"}:
            found.update(split_urls(value))
        elif _URL_SETTINGS.search(name):
            login, at, _ = value.partition("://")[2].rpartition("@")
            if at:
                found.add(login.partition(":")[2])
    return _decoded(found)


def _decoded(pieces: set[str]) -> frozenset[str]:
    """Add what percent-encoded pieces stand for."""
    return frozenset(pieces | {unquote(piece) for piece in pieces})
