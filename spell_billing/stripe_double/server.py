"""Runs the double's application on uvicorn: in a thread of a test, or as the main thing of a process."""

import asyncio
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from spell_billing.stripe_double.delivery import DroppableProtocol


class Server(uvicorn.Server):
    """A uvicorn server that says when it is ready, and ends without killing its process."""

    def __init__(
        self, app: ASGIApp, *, on_ready: Callable[[], object], on_stopping: Callable[[], object]
    ) -> None:
        config = uvicorn.Config(
            app,
            http=DroppableProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=2,
            timeout_keep_alive=75,
            backlog=2048,
        )
        super().__init__(config)
        self._on_ready = on_ready
        self._on_stopping = on_stopping
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Run a callback in the server's thread; for any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(callback)

    def stop(self) -> None:
        """End the server; for any thread."""
        self.should_exit = True
        self.call_soon(self._stop.set)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End the server on a signal."""
        super().handle_exit(sig, frame)
        # uvicorn would raise it again afterwards, and kill the process before it says goodbye.
        self._captured_signals.clear()
        self.stop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, and tell."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self._on_ready()

    async def main_loop(self) -> None:
        """Serve until told to stop."""
        await self._stop.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the waiting requests, then the server."""
        self._on_stopping()
        await super().shutdown(sockets)


def url_of(host: str, port: int) -> str:
    """Return the address of a server that listens there."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
