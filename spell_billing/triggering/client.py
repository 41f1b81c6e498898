"""The server: where it is, the secret it wants, and asking it, patiently while it is away."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson
from pydantic import SecretStr

from spell_billing.core.errors import SettingsError, SpellBillingError
from spell_billing.core.month import Month
from spell_billing.settings.addresses import LOOPBACK

_TIMEOUT_SECONDS = 60.0
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 15.0
_LONGEST_WAIT_SECONDS = 120.0
_LARGEST_ANSWER_BYTES = 64 * 1024 * 1024
_LONGEST_LINE = 400
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


class TriggerError(SpellBillingError):
    """The server refuses, or the run cannot be started or followed."""


class ServerLostError(TriggerError):
    """The server does not answer, or answers that it cannot now: the same request may go through later."""

    transient = True

    def __init__(self, message: str, *, remedy: str, wait_seconds: float = 0) -> None:
        """Take the seconds as well that the server asks to wait before the next try."""
        super().__init__(message, remedy=remedy)
        self.wait_seconds = wait_seconds


def server_address(text: str) -> str:
    """Accept a server's address: https, or plain http to this machine. No slash ends what comes back.

    Raises:
        SettingsError: when it is malformed, or would send the secret in the clear.
    """
    try:
        parts = urlsplit(text.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    extras = parts.username or parts.password or parts.query or parts.fragment or parts.path.strip("/")
    if not host or port == 0 or extras or parts.scheme not in {"http", "https"}:
        # Not repeated: whatever was pasted here may hold a password.
        raise SettingsError(
            "That is not the address of a server.",
            remedy="Write it as https://billing.example.com, with no login and no path in it.",
        )
    if parts.scheme == "http" and host not in LOOPBACK:
        raise SettingsError(
            f"http://{host} would send ADMIN_SECRET unencrypted.",
            remedy="Use https; plain http is for 127.0.0.1 and localhost only.",
        )
    return f"{parts.scheme}://{parts.netloc}"


def secret_from(environment: Mapping[str, str]) -> SecretStr:
    """Read `ADMIN_SECRET`. It is taken from nowhere else: arguments are seen by everybody on a machine.

    Raises:
        SettingsError: when it is missing, or cannot be sent in a header.
    """
    text = environment.get("ADMIN_SECRET", "").strip()
    if not text:
        raise SettingsError(
            "ADMIN_SECRET is not set.", remedy="Set it in the environment to the secret of the server."
        )
    if not text.isascii() or not text.isprintable() or " " in text:
        raise SettingsError(
            "ADMIN_SECRET has a character that no HTTP header carries safely.",
            remedy="Set it to exactly what the server was started with.",
        )
    return SecretStr(text)


def one_line(text: str) -> str:
    """Return text on one line of at most 400 characters that is safe in a terminal and in a CI's log.

    GitHub takes `##[...]` anywhere in a line of a job's log as a command; a user id may hold it.
    """
    words = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    words = words.replace("##[", "## [")
    return words if len(words) <= _LONGEST_LINE else f"{words[: _LONGEST_LINE - 4]} ..."


def growing_pauses(longest_seconds: float = _LONGEST_PAUSE_SECONDS) -> Iterator[float]:
    """Return pauses in seconds, each half as long again as the one before, up to the longest."""
    pause = _FIRST_PAUSE_SECONDS
    while True:
        yield pause
        pause = min(pause * 1.5, longest_seconds)


@dataclass(slots=True)
class Server:
    """One server, asked again and again while it does not answer.

    Redirects are not followed: they could lead the secret elsewhere. What the server says is brought onto one
    line of bounded length, without the secret, before it gets into an error: a ServerLostError when it does
    not answer for `patience_seconds`, a TriggerError when it refuses.

    Attributes:
        say: Writes a progress line.
        patience_seconds: How long to wait for a server that does not answer; None: without end.
    """

    address: str
    secret: SecretStr
    say: Callable[[str], None]
    patience_seconds: float | None
    session: aiohttp.ClientSession

    @classmethod
    @asynccontextmanager
    async def open(
        cls, address: str, secret: SecretStr, say: Callable[[str], None], *, patience_seconds: float | None
    ) -> AsyncIterator["Server"]:
        """Open a server whose address `server_address` accepted; it is asked only when it is needed."""
        async with aiohttp.ClientSession(
            headers={"X-Admin-Secret": secret.get_secret_value(), "Accept": "application/json"},
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS),
            # A proxy of the environment would get what is sent to this machine in the clear.
            trust_env=urlsplit(address).hostname not in LOOPBACK,
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as session:
            yield cls(address, secret, say, patience_seconds, session)

    async def month(self, month: Month) -> dict[str, Any]:
        """Return where a month stands by the server's ledger."""
        return await self._patiently("GET", f"/admin/billing/months/{month}", None)

    async def ask(self, query: str, *, patiently: bool = True, **variables: Any) -> dict[str, Any]:
        """Ask GraphQL and return its `data`; patiently only what may be repeated."""
        send = self._patiently if patiently else self._send
        content = await send("POST", "/graphql", {"query": query, "variables": variables})
        data, errors = content.get("data"), content.get("errors")
        if errors or not isinstance(data, dict):
            first = errors[0].get("message", "") if isinstance(errors, list) and errors else "no data came"
            raise TriggerError(
                f"The server's GraphQL refuses the question: {self._clean(str(first)).rstrip('.')}.",
                remedy="Use the spell-billing of the server's version; the server's log says more.",
            )
        return data

    async def _patiently(self, method: str, path: str, content: object) -> dict[str, Any]:
        waited, lost = 0.0, False
        pauses = growing_pauses()
        while True:
            try:
                answer = await self._send(method, path, content)
            except ServerLostError as problem:
                seconds = min(max(next(pauses), problem.wait_seconds), _LONGEST_WAIT_SECONDS)
                if self.patience_seconds is not None and waited + seconds > self.patience_seconds:
                    raise
                if not lost:
                    self.say(f"{problem.message} Asking again.")
                lost = True
            else:
                if lost:
                    self.say("The server answers again.")
                return answer
            await asyncio.sleep(seconds)
            waited += seconds

    async def _send(self, method: str, path: str, content: object) -> dict[str, Any]:
        try:
            async with self.session.request(
                method, f"{self.address}{path}", json=content, allow_redirects=False
            ) as answer:
                body = b""
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
        try:
            content = orjson.loads(body)
        except orjson.JSONDecodeError:
            content = None
        if status == 200 and isinstance(content, dict):  # noqa: PLR2004 - HTTP's number
            return content
        if status == 401:  # noqa: PLR2004
            raise TriggerError(
                f"{self.address} does not accept ADMIN_SECRET.",
                remedy="Set ADMIN_SECRET to what the server was started with.",
            )
        content = content if isinstance(content, dict) else {}
        error = content.get("error")
        error = error if isinstance(error, dict) else {}
        message, remedy = (self._clean(str(error.get(name, ""))) for name in ("message", "remedy"))
        if status in _TRY_AGAIN:
            raise ServerLostError(
                message or f"{self.address} cannot answer now (HTTP {status}).",
                remedy=remedy or "Try again; the server's log says why.",
                wait_seconds=float(retry_after) if retry_after.isdigit() else 0,
            )
        if message:
            raise TriggerError(message, remedy=remedy)
        if path == "/graphql" and "errors" in content:
            return content
        raise TriggerError(
            f"What answers at {self.address} is not spell-billing (HTTP {status} for {path}).",
            remedy="Give the address of `spell-billing serve` itself: redirects are not followed.",
        )

    def _clean(self, text: str) -> str:
        return one_line(text.replace(self.secret.get_secret_value(), "***"))
