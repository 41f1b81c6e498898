"""People by name: who may sign in, what each may do, and the hash that stands for each one's secret."""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from spell_billing.core.errors import SettingsError

SHORTEST_SECRET = 16
BY_PROXY = "proxy"
"""Stands in place of a hash for someone who signs in at the proxy alone."""

_LINE = "name:role:hash"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}")
_TAKEN = frozenset({"anonymous", "secret", "session", "stripe", "user"})
"""What the log and the audit trail call requests that are nobody's by name."""
_SCHEME = "scrypt"
_COST = 15
"""Log2 of scrypt's N. With r=8 and p=3 it is one of the settings of the OWASP Password Storage Cheat Sheet:
32 MiB and about 0.2 seconds a try."""
_BLOCK_SIZE, _PARALLEL = 8, 3
_HIGHEST_COST = 20
_SALT_BYTES = _HASH_BYTES = 32


class Role(IntEnum):
    """What someone may do; each role may do what the ones before it may."""

    VIEW = 1
    """See pages, figures and exports."""
    OPERATE = 2
    """Start, retry, hold and settle; whatever changes something in Dagster."""
    APPROVE = 3
    """Approve a month, and release what is held."""

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Person:
    """One line of `ADMIN_SECRETS`; `hash` is None for someone who signs in at the proxy."""

    name: str
    role: Role
    hash: str | None = field(repr=False)


def check_name(name: str) -> str:
    """Return a name that a line may have.

    Raises:
        SettingsError: when it has a character that it must not have, or is taken.
    """
    if not _NAME.fullmatch(name) or name.casefold() in _TAKEN:
        raise SettingsError(
            f"{name!r} is no name for ADMIN_SECRETS.",
            remedy="Use letters, digits and . _ @ + -, as anna or anna@example.com; "
            f"{', '.join(sorted(_TAKEN))} are taken.",
        )
    return name


def read_people(text: str) -> Mapping[str, Person]:
    """Read the lines of `ADMIN_SECRETS` into people by name in lower case.

    Raises:
        SettingsError: naming the line by its number, never its content.
    """
    found: dict[str, Person] = {}
    for number, line in enumerate(text.split(), start=1):
        name, _, rest = line.partition(":")
        role, _, hashed = rest.partition(":")
        roles = {str(each): each for each in Role}
        if role not in roles or not (hashed == BY_PROXY or _parts(hashed)):
            raise SettingsError(
                f"Line {number} of ADMIN_SECRETS is not {_LINE}.",
                remedy="Make it with `spell-billing hash-secret --name NAME --role ROLE`; the roles are "
                f"{', '.join(roles)}.",
            )
        person = Person(check_name(name), roles[role], None if hashed == BY_PROXY else hashed)
        if person.name.casefold() in found:
            raise SettingsError(
                f"{name} stands twice in ADMIN_SECRETS.", remedy="Leave one line for each person."
            )
        found[person.name.casefold()] = person
    return found


def hash_secret(secret: str, *, cost: int = _COST) -> str:
    """Return the hash of a person's secret, with a salt of its own, in letters that no shell changes.

    Raises:
        SettingsError: when the secret is too short, or has a character that a header does not carry.
    """
    if len(secret) < SHORTEST_SECRET or not secret.isascii() or not secret.isprintable() or " " in secret:
        raise SettingsError(
            f"A secret has at least {SHORTEST_SECRET} printable ASCII characters and no spaces.",
            remedy="Take a random text, as from `openssl rand -hex 32`.",
        )
    salt = secrets.token_bytes(_SALT_BYTES)
    parts = (salt, _scrypt(secret.encode(), salt, cost))
    texts = (base64.urlsafe_b64encode(each).rstrip(b"=").decode() for each in parts)
    return ".".join([_SCHEME, str(cost), *texts])


def is_secret_of(hashed: str, given: bytes) -> bool:
    """Return whether a hash was made of what is given. It takes the time and memory that it shall take."""
    parts = _parts(hashed)
    if parts is None:
        return False
    cost, salt, digest = parts
    return hmac.compare_digest(_scrypt(given, salt, cost), digest)


def nobodys_hash(people: Mapping[str, Person]) -> str:
    """Return a hash of nothing that takes as long to compare with as the people's own."""
    costs = [parts[0] for each in people.values() if each.hash and (parts := _parts(each.hash))]
    return hash_secret(secrets.token_hex(), cost=max(costs, default=1))


def line_of(name: str, role: str, secret: str) -> str:
    """Return a person's line for `ADMIN_SECRETS`.

    Raises:
        SettingsError: when name or secret cannot be taken.
    """
    return f"{check_name(name)}:{role}:{hash_secret(secret)}"


def _parts(hashed: str) -> tuple[int, bytes, bytes] | None:
    scheme, *parts = hashed.split(".")
    if scheme != _SCHEME or len(parts) != len(("cost", "salt", "digest")) or not parts[0].isdecimal():
        return None
    try:
        salt, digest = (base64.urlsafe_b64decode(f"{text}=") for text in parts[1:])
    except ValueError:
        return None
    cost = int(parts[0])
    sound = 1 <= cost <= _HIGHEST_COST and len(salt) == _SALT_BYTES and len(digest) == _HASH_BYTES
    return (cost, salt, digest) if sound else None


def _scrypt(secret: bytes, salt: bytes, cost: int) -> bytes:
    # OpenSSL refuses more memory than this, and needs a little more than the 128 * N * r of the algorithm.
    memory = 129 * _BLOCK_SIZE * ((1 << cost) + _PARALLEL) + (1 << 20)
    return hashlib.scrypt(
        secret, salt=salt, n=1 << cost, r=_BLOCK_SIZE, p=_PARALLEL, maxmem=memory, dklen=_HASH_BYTES
    )
