"""Serves the API: admits a request, runs it once under its idempotency key, and delivers the answer."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate

from starlette.types import Receive, Scope, Send

from spell_billing.stripe_double.account import Account, Call, locked_by
from spell_billing.stripe_double.errors import ApiError, internal_error, lock_timeout
from spell_billing.stripe_double.faults import (
    HANGING,
    UNANSWERED,
    WITHOUT_EFFECT,
    Fault,
    FaultKind,
    RequestRecord,
)
from spell_billing.stripe_double.idempotency import MAX_KEY_CHARACTERS, Answer, IdempotencyKeys
from spell_billing.stripe_double.limits import Limiter
from spell_billing.stripe_double.operations import Operation, find_operation
from spell_billing.stripe_double.permissions import UNRESTRICTED, forbidden, require
from spell_billing.stripe_double.wire import drop, read_body, send_answer, wait_until_gone

_KEY_PREFIXES = ("sk_test_", "rk_test_")
_TOO_MANY_REQUESTS = 429
_NO_FAULT = Fault(FaultKind.NONE)


class Engine:
    """The API of one account, as an ASGI application.

    It runs in the server's thread; touching `account` or `keys` from another thread needs `lock`.
    """

    def __init__(
        self,
        account: Account,
        *,
        limiter: Limiter,
        latency_seconds: float = 0.0,
        api_keys: frozenset[str] | None = None,
        on_defect: Callable[[Exception], object],
    ) -> None:
        self.account = account
        self.keys = IdempotencyKeys()
        self.faults: list[Fault] = []
        self.requests: list[RequestRecord] = []
        self.by_operation: Counter[str] = Counter()
        self.rate_limited = 0
        self.replays = 0
        self.lock = threading.RLock()
        self.stopping = asyncio.Event()
        self.allowed: dict[str, frozenset[str]] = {}
        """What a restricted key is allowed, by Stripe's names of permissions; else all but its account."""
        self._limiter = limiter
        self._latency_seconds = latency_seconds
        self._api_keys = api_keys
        self._on_defect = on_defect
        self._held: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        body = await read_body(receive)
        headers: dict[bytes, bytes] = dict(scope["headers"])
        record = self._record(scope, headers)
        fault, answer = _NO_FAULT, None
        try:
            self._authenticate(headers)
            operation, object_id = find_operation(record.method, record.path)
            record.operation = operation.name
            self.by_operation[operation.name] += 1
            permissions = self._permit(operation, headers)
            striking = [each for each in self.faults if each.strikes(operation)]
            if striking:
                fault = striking[0]
                fault.fired += 1
            record.fault = None if fault.kind == FaultKind.NONE else str(fault.kind)
            encoded = body if record.method == "POST" else scope["query_string"]
            if permissions != UNRESTRICTED:
                expand = operation.parameters.read(encoded.decode("utf-8", "replace")).get("expand")
                account_id, writes = self.account.id, operation.writes
                require(permissions, operation.name, expand, writes=writes, account_id=account_id)
            self._limiter.admit(operation.name)
            answer = await self._serve(operation, object_id, encoded, record, fault)
        except ApiError as error:
            answer = _refused(error, record)
        except Exception as error:  # noqa: BLE001 - kept, and raised where the double is stopped
            self._on_defect(error)
            answer = _refused(internal_error(), record)
        if fault.kind in HANGING:
            await wait_until_gone(receive, self.stopping)
        if answer is None or fault.kind in UNANSWERED:
            await drop(scope, receive)
            return
        record.status = answer.status
        self.rate_limited += answer.status == _TOO_MANY_REQUESTS
        self.replays += record.replayed
        response_headers = _response_headers(headers, record, answer, self.account.unix())
        truncated = fault.kind == FaultKind.TRUNCATED
        await send_answer(answer, response_headers, send, half=truncated)
        if truncated:
            await drop(scope, receive)

    def _record(self, scope: Scope, headers: dict[bytes, bytes]) -> RequestRecord:
        key = headers.get(b"idempotency-key") if scope["method"] == "POST" else None
        record = RequestRecord(
            method=scope["method"],
            path=scope["path"],
            request_id=f"req_{self.account.salt}{len(self.requests) + 1:08}",
            idempotency_key=None if key is None else key.decode("latin-1"),
        )
        self.requests.append(record)
        return record

    def _permit(self, operation: Operation, headers: dict[bytes, bytes]) -> frozenset[str]:
        key = headers[b"authorization"].decode("latin-1").partition(" ")[2]
        if key in self.allowed:
            return self.allowed[key]
        if key.startswith("rk_") and operation.name == "account.retrieve":
            raise forbidden(self.account.id)
        return UNRESTRICTED

    def _authenticate(self, headers: dict[bytes, bytes]) -> None:
        scheme, _, key = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise ApiError("You did not provide an API key.", status=401)
        known = key.startswith(_KEY_PREFIXES) if self._api_keys is None else key in self._api_keys
        if not known:
            raise ApiError("Invalid API Key provided.", status=401)

    async def _serve(
        self, operation: Operation, object_id: str, encoded: bytes, record: RequestRecord, fault: Fault
    ) -> Answer | None:
        if fault.before_effect is not None:
            fault.before_effect(record)
        try:
            if fault.kind in WITHOUT_EFFECT:
                return None
            refusal = fault.refusal()
            if refusal is not None:
                raise refusal
            return await self._run(operation, object_id, encoded, record, fault)
        finally:
            if fault.after_effect is not None:
                fault.after_effect(record)

    async def _run(
        self, operation: Operation, object_id: str, encoded: bytes, record: RequestRecord, fault: Fault
    ) -> Answer:
        call = Call(object_id, operation.parameters.read(encoded.decode("utf-8", "replace")))
        key = record.idempotency_key
        if key is None:
            return await self._execute(operation, call, record, fault)
        if len(key) > MAX_KEY_CHARACTERS:
            raise ApiError(f"Idempotency keys have at most {MAX_KEY_CHARACTERS} characters.")
        stored = self.keys.begin(key, record.path, encoded, self.account.unix())
        if stored is not None:
            record.replayed = True
            return stored
        try:
            answer = await self._execute(operation, call, record, fault)
        except BaseException:
            self.keys.abandon(key)
            raise
        self.keys.finish(key, answer)
        return answer

    async def _execute(self, operation: Operation, call: Call, record: RequestRecord, fault: Fault) -> Answer:
        with self._holding(locked_by(self.account, call) if operation.writes else frozenset()):
            await self._pause(self._latency_seconds)
            if fault.kind == FaultKind.ERROR_500_BEFORE:
                return _refused(internal_error(), record)
            answer = self._effect(operation, call, record)
            if fault.kind == FaultKind.ERROR_500_AFTER:
                return _refused(internal_error(), record)
            await self._pause(fault.seconds if fault.kind == FaultKind.SLOW else 0)
            return answer

    def _effect(self, operation: Operation, call: Call, record: RequestRecord) -> Answer:
        with self.lock:
            self.account.request = (record.request_id, record.idempotency_key)
            try:
                return Answer(200, operation.handler(self.account, call), record.request_id)
            except ApiError as error:
                return _refused(error, record)

    @contextmanager
    def _holding(self, object_ids: frozenset[str]) -> Iterator[None]:
        if object_ids & self._held:
            raise lock_timeout()
        self._held |= object_ids
        try:
            yield
        finally:
            self._held -= object_ids

    async def _pause(self, seconds: float) -> None:
        if seconds <= 0 or self.stopping.is_set():
            return
        try:
            await asyncio.wait_for(self.stopping.wait(), seconds)
        except TimeoutError:
            return


def _refused(error: ApiError, record: RequestRecord) -> Answer:
    return Answer(error.status, error.body(record.request_id), record.request_id, error.headers)


def _response_headers(
    headers: dict[bytes, bytes], record: RequestRecord, answer: Answer, unix: int
) -> list[tuple[bytes, bytes]]:
    given = {b"request-id": record.request_id.encode(), b"date": formatdate(unix, usegmt=True).encode()}
    if b"stripe-version" in headers:
        given[b"stripe-version"] = headers[b"stripe-version"]
    if record.idempotency_key is not None:
        given[b"idempotency-key"] = record.idempotency_key.encode("latin-1")
        given[b"original-request"] = answer.request_id.encode()
    if record.replayed:
        given[b"idempotent-replayed"] = b"true"
    return list(given.items())
