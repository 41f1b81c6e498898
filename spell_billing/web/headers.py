"""Security headers of every answer: strict on pages of our own, on Dagster's what its pages bear."""

from collections.abc import Callable, Mapping

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


def with_security_headers(app: ASGIApp, *, https: bool) -> ASGIApp:
    """Add the headers that an answer lacks: one that an answer gives itself stays as it is."""

    def add(headers: MutableHeaders, scope: Scope) -> None:
        for name, value in OURS.items():
            headers.setdefault(name, value)
        if https or scope["scheme"] == "https":
            headers.setdefault("Strict-Transport-Security", HTTPS_ONLY)

    return _changing(app, add)


def with_dagster_headers(app: ASGIApp) -> ASGIApp:
    """Adapt the headers to Dagster's pages: they have a policy for scripts, which frames are added to.

    Answers with data are never stored; pictures and scripts are asked for again with their ETag.
    """

    def adapt(headers: MutableHeaders, _: Scope) -> None:
        policy = headers.get("content-security-policy", "").rstrip("; ")
        headers["Content-Security-Policy"] = f"{policy}; {_FRAMES}" if policy else _FRAMES
        headers["X-Frame-Options"] = "SAMEORIGIN"
        headers.setdefault("Cache-Control", "private, no-cache" if "etag" in headers else "no-store")
        headers["Referrer-Policy"] = "same-origin"

    return _changing(app, adapt)


def _changing(app: ASGIApp, change: Callable[[MutableHeaders, Scope], None]) -> ASGIApp:
    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_changed(message: Message) -> None:
            if message["type"] == "http.response.start":
                change(MutableHeaders(scope=message), scope)
            await send(message)

        await app(scope, receive, send_changed)

    return serve
