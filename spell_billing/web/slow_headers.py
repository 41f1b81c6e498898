"""Ends connections that take too long to send a request's headers, which uvicorn waits for without end."""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0


class PatientWithHeaders(H11Protocol):
    """uvicorn's protocol, with a time limit from a connection's start or last request to whole headers."""

    _until_headers: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Begin to wait."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Go on waiting while headers are incomplete."""
        super().data_received(data)
        # h11's state of the client: idle until the headers of its next request are whole.
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._until_headers is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._until_headers = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._until_headers is not None:
            self._until_headers.cancel()
            self._until_headers = None
