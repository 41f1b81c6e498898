"""Security headers of every answer: strict on pages of our own, on Dagster's what its pages bear."""

from collections.abc import Mapping

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HTTPS_ONLY = "max-age=31536000"
OURS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_FRAMES = "frame-ancestors 'self'"


class SecurityHeaders:
    """Adds the headers that an answer lacks: one that an answer gives itself stays as it is."""

    def __init__(self, app: ASGIApp, *, https: bool) -> None:
        self._app = app
        self._https = https

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request, and add the headers to its answer."""

        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in OURS.items():
                    headers.setdefault(name, value)
                if self._https or scope["scheme"] == "https":
                    headers.setdefault("Strict-Transport-Security", HTTPS_ONLY)
            await send(message)

        await self._app(scope, receive, add if scope["type"] == "http" else send)


class DagsterHeaders:
    """Adapts the headers to Dagster's pages: they have a policy for scripts, which frames are added to.

    Answers with data are never stored; pictures and scripts are asked for again with their ETag.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request, and adapt its answer."""

        async def adapt(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                policy = headers.get("content-security-policy", "").rstrip("; ")
                headers["Content-Security-Policy"] = f"{policy}; {_FRAMES}" if policy else _FRAMES
                headers["X-Frame-Options"] = "SAMEORIGIN"
                headers.setdefault("Cache-Control", "private, no-cache" if "etag" in headers else "no-store")
                headers["Referrer-Policy"] = "same-origin"
            await send(message)

        await self._app(scope, receive, adapt if scope["type"] == "http" else send)
