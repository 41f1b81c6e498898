"""Idempotency keys: the first answer under a key is replayed for 24 hours."""

from dataclasses import dataclass, field

from spell_billing.stripe_double.errors import ApiError, key_in_use

RETENTION_SECONDS = 24 * 3600
MAX_KEY_CHARACTERS = 255


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request is answered with; the payload is rendered when it is sent, and again on a replay."""

    status: int
    payload: object
    request_id: str
    headers: tuple[tuple[bytes, bytes], ...] = field(default=())


@dataclass(slots=True)
class _Entry:
    path: str
    form: list[bytes]
    created: int
    answer: Answer | None = None


class IdempotencyKeys:
    """The keys of one account with their stored answers."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def begin(self, key: str, path: str, body: bytes, now: int) -> Answer | None:
        """Claim a key for a request that is about to run, or give the answer stored under it.

        Raises:
            ApiError: 400 when the key was used with another request, 409 when that one still runs.
        """
        form = sorted(body.split(b"&"))
        entry = self._entries.get(key)
        if entry is None or entry.created + RETENTION_SECONDS <= now:
            self._entries[key] = _Entry(path, form, now)
            return None
        if (entry.path, entry.form) != (path, form):
            raise ApiError(
                f"Keys for idempotent requests can only be used with the same endpoint and the same"
                f" parameters they were first used with. Try using a key other than '{key}' if you meant"
                f" to execute a different request.",
                kind="idempotency_error",
            )
        if entry.answer is None:
            raise key_in_use()
        return entry.answer

    def finish(self, key: str, answer: Answer) -> None:
        """Store the answer of the request that holds the key."""
        if key in self._entries:
            self._entries[key].answer = answer

    def abandon(self, key: str) -> None:
        """Free the key: its request was not executed."""
        self._entries.pop(key, None)

    def expire_all(self) -> None:
        """Forget every stored answer, as after 24 hours; running requests keep their keys."""
        self._entries = {key: entry for key, entry in self._entries.items() if entry.answer is None}
