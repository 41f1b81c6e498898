"""Talks to the server: GraphQL and JSON with the secret in a header, patient with one that is away."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import aiohttp
import orjson
from pydantic import SecretStr

from spell_billing.core.month import Month
from spell_billing.triggering.address import is_loopback
from spell_billing.triggering.errors import ServerLostError, TriggerError
from spell_billing.triggering.words import one_line

_TIMEOUT_SECONDS = 60.0
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 15.0
_LONGEST_WAIT_SECONDS = 120.0
_LARGEST_ANSWER_BYTES = 64 * 1024 * 1024
_Answer = TypeVar("_Answer")
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


def growing_pauses(
    first: float = _FIRST_PAUSE_SECONDS, longest: float = _LONGEST_PAUSE_SECONDS
) -> Iterator[float]:
    """Return pauses in seconds, each half as long again as the one before, up to the longest."""
    pause = first
    while True:
        yield pause
        pause = min(pause * 1.5, longest)


class Server:
    """One server, for as long as the `async with` block lasts.

    Redirects are not followed: they could lead the secret elsewhere. What the server says is brought onto one
    line of bounded length, without the secret, before it gets into an error.

    Args:
        address: As `server_address` gives it.
        secret: Of the server.
        say: Writes a line for the person who waits.
        patience_seconds: How long `patiently` waits for a server that does not answer; None: without end.
    """

    def __init__(
        self,
        address: str,
        secret: SecretStr,
        say: Callable[[str], None],
        *,
        patience_seconds: float | None,
    ) -> None:
        self.address = address
        self.say = say
        self.patience_seconds = patience_seconds
        self._secret = secret
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            headers={"X-Admin-Secret": self._secret.get_secret_value(), "Accept": "application/json"},
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS),
            # A proxy of the environment would get what is sent to this machine in the clear.
            trust_env=not is_loopback(urlsplit(self.address).hostname or ""),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """Ask GraphQL once and give its `data`.

        Raises:
            ServerLostError: when there is no answer now.
            TriggerError: when the server refuses.
        """
        content = await self._send("POST", "/graphql", {"query": query, "variables": variables})
        data, errors = content.get("data"), content.get("errors")
        if errors or not isinstance(data, dict):
            first = errors[0].get("message", "") if isinstance(errors, list) and errors else "no data came"
            raise TriggerError(
                f"The server's GraphQL refuses the question: {self._clean(str(first)).rstrip('.')}.",
                remedy="Use the spell-billing of the server's version; the server's log says more.",
            )
        return data

    async def month(self, month: Month) -> dict[str, Any]:
        """Return where a month stands by the server's ledger, once.

        Raises:
            ServerLostError: when there is no answer now.
            TriggerError: when the server refuses.
        """
        return await self._send("GET", f"/admin/billing/months/{month}", None)

    async def patiently(self, what: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """Do something that may be repeated, again and again while the server does not answer.

        Raises:
            ServerLostError: when the server does not answer for `patience_seconds`.
            TriggerError: when it refuses.
        """
        waited, lost = 0.0, False
        for pause in growing_pauses():
            try:
                result = await what()
            except ServerLostError as problem:
                seconds = min(max(pause, problem.wait_seconds), _LONGEST_WAIT_SECONDS)
                if self.patience_seconds is not None and waited + seconds > self.patience_seconds:
                    raise
                if not lost:
                    self.say(f"{problem.message} Asking again.")
                lost = True
            else:
                if lost:
                    self.say("The server answers again.")
                return result
            await asyncio.sleep(seconds)
            waited += seconds
        raise AssertionError("pauses never end")

    async def _send(self, method: str, path: str, content: object) -> dict[str, Any]:
        assert self._session is not None, "used outside of `async with`"  # noqa: S101 - a slip in our own code
        try:
            async with self._session.request(
                method, f"{self.address}{path}", json=content, allow_redirects=False
            ) as answer:
                body = await answer.content.read(_LARGEST_ANSWER_BYTES + 1)
                while not answer.content.at_eof() and len(body) <= _LARGEST_ANSWER_BYTES:
                    body += await answer.content.read(_LARGEST_ANSWER_BYTES)
                return self._read(path, answer.status, answer.headers.get("Retry-After", ""), body)
        except aiohttp.ClientSSLError as problem:
            why = self._clean(str(problem)).rstrip(".")
            raise TriggerError(
                f"The encryption of {self.address} cannot be trusted: {why}.",
                remedy="Check the address and the server's certificate.",
            ) from None
        except (aiohttp.ClientError, TimeoutError, OSError) as problem:
            why = self._clean(str(problem)) or type(problem).__name__
            raise ServerLostError(
                f"{self.address} does not answer: {why.rstrip('.')}.",
                remedy="Check the address, and that `spell-billing serve` runs there.",
            ) from None

    def _read(self, path: str, status: int, retry_after: str, body: bytes) -> dict[str, Any]:
        content = _json_object(body)
        if status == 200 and content is not None:  # noqa: PLR2004 - HTTP's number
            return content
        message, remedy = self._refusal(content)
        if status == 401:  # noqa: PLR2004
            raise TriggerError(
                f"{self.address} does not accept ADMIN_SECRET.",
                remedy="Set ADMIN_SECRET to what the server was started with.",
            )
        if status in _TRY_AGAIN:
            raise ServerLostError(
                message or f"{self.address} cannot answer now (HTTP {status}).",
                remedy=remedy or "Try again; the server's log says why.",
                wait_seconds=float(retry_after) if retry_after.isdigit() else 0,
            )
        if message:
            raise TriggerError(message, remedy=remedy)
        if path == "/graphql" and content is not None and "errors" in content:
            return content
        raise TriggerError(
            f"What answers at {self.address} is not spell-billing (HTTP {status} for {path}).",
            remedy="Give the address of `spell-billing serve` itself: redirects are not followed.",
        )

    def _refusal(self, content: dict[str, Any] | None) -> tuple[str, str]:
        error = content.get("error") if content else None
        if not isinstance(error, dict):
            return "", ""
        return self._clean(str(error.get("message", ""))), self._clean(str(error.get("remedy", "")))

    def _clean(self, text: str) -> str:
        return one_line(text.replace(self._secret.get_secret_value(), "***"))


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return content if isinstance(content, dict) else None
