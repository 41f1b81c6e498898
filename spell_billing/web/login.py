"""Signing in: the page for the secret, the session's signed cookie, and what it may do from which page."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlsplit

from itsdangerous import BadData
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from spell_billing.web.context import WebContext
from spell_billing.web.errors import error_page
from spell_billing.web.facts import facts_of
from spell_billing.web.keys import signer
from spell_billing.web.pages import FORM_HEADERS, page, read_fields
from spell_billing.web.secret import SecretCheck, Tried, Verdict

LIFETIME = timedelta(hours=12)
PURPOSE = "session"
_COOKIE = "spell_billing_session"
_ID_BYTES = 9
_KEY_BYTES = 32
_LONGEST_COOKIE = 500
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Session:
    """A signed-in browser: a random id, which is no secret, when the session ends, and whose it is.

    `name` is of a person of `ADMIN_SECRETS`; None with the one secret.
    """

    id: str
    until: datetime
    name: str | None = None


class Sessions:
    """Begin, read and end sessions.

    What was signed out before its time is remembered by this process, and no session outlives the process:
    a restart would otherwise bring those back. A new `ADMIN_SECRET` ends all sessions, too.
    """

    def __init__(self, key: bytes, clock: Callable[[], datetime]) -> None:
        self._serializer = signer(key + secrets.token_bytes(_KEY_BYTES), PURPOSE)
        self._clock = clock
        self._ended: dict[str, datetime] = {}

    def begin(self, name: str | None = None) -> tuple[Session, str]:
        """Begin a session; return it and the cookie's value."""
        session = Session(secrets.token_urlsafe(_ID_BYTES), self._clock() + LIFETIME, name)
        return session, str(self._serializer.dumps([session.id, int(session.until.timestamp()), name]))

    def read(self, value: str | None) -> Session | None:
        """Return the session of a cookie's value; None when it is forged, over, or was ended."""
        if not value or len(value) > _LONGEST_COOKIE:
            return None
        try:
            session_id, until, name = self._serializer.loads(value)
        except BadData:
            return None
        session = Session(session_id, datetime.fromtimestamp(until, UTC), name)
        return session if session.until > self._clock() and session.id not in self._ended else None

    def end(self, session: Session) -> None:
        """End a session before its time."""
        now = self._clock()
        self._ended = {each: until for each, until in self._ended.items() if until > now}
        self._ended[session.id] = session.until


def cookie_of(context: WebContext, connection: HTTPConnection) -> str | None:
    """Return the value of the session's cookie, if any."""
    return connection.cookies.get(_cookie_name(https=_is_https(context, connection)))


def set_cookie(context: WebContext, connection: HTTPConnection, response: Response, value: str) -> None:
    """Give the browser the session's cookie; an empty value takes it away."""
    https = _is_https(context, connection)
    response.set_cookie(
        _cookie_name(https=https),
        value,
        max_age=int(LIFETIME.total_seconds()) if value else 0,
        path="/",
        secure=https,
        httponly=True,
        samesite="lax",
    )


def may_act(context: WebContext, connection: HTTPConnection) -> bool:
    """Return whether a request with a cookie may do what it asks for, so that no other site acts for it.

    Looking is free, as nothing here changes by it. Anything else, a websocket included, must come from a page
    of this server: by `Sec-Fetch-Site`, which scripts cannot set, or in older browsers by `Origin`.
    See https://cheatsheetseries.owasp.org/cheatsheets/Cross-Site_Request_Forgery_Prevention_Cheat_Sheet.html.
    """
    if connection.scope["type"] == "http" and connection.scope["method"] in SAFE_METHODS:
        return True
    site = connection.headers.get("sec-fetch-site")
    origin = connection.headers.get("origin")
    if site is not None and site != "same-origin":
        return False
    # A page with the policy no-referrer sends its forms with the origin `null`.
    if origin is None or origin == "null":
        return site == "same-origin"
    if origin == context.web.public_url:
        return True
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    host = connection.headers.get("host", "")
    return parts.scheme in {"http", "https"} and bool(host) and parts.netloc.lower() == host.lower()


def _is_https(context: WebContext, connection: HTTPConnection) -> bool:
    """Return whether browsers reach the server encrypted: by the public address, or as the proxy says."""
    return connection.scope["scheme"] in {"https", "wss"} or context.is_https


def _cookie_name(*, https: bool) -> str:
    # Browsers take a name with this prefix only from the host itself, not from another one of its domain.
    return f"__Host-{_COOKIE}" if https else _COOKIE


def login_address(connection: HTTPConnection) -> str:
    """Return the address of the page to sign in, which leads back to the one that was asked for."""
    query = connection.url.query
    wanted = connection.scope["path"] + (f"?{query}" if query else "")
    return f"/login?next={quote(wanted, safe='')}" if wanted != "/" else "/login"


def login_routes(context: WebContext, check: SecretCheck, sessions: Sessions) -> list[Route]:
    """Return the routes that everybody reaches: `/login` and `/logout`."""
    by_name = bool(context.web.people)

    async def ask(request: Request) -> Response:
        return _login_page(200, request.query_params.get("next", "/"), by_name=by_name)

    async def sign_in(request: Request) -> Response:
        if not may_act(context, request):
            return _from_elsewhere()
        fields = await read_fields(request)
        wanted = fields.get("next", "/")
        facts = facts_of(request.scope)
        given = ":".join(part for key in ("name", "secret") if (part := fields.get(key, "").strip()))
        tried = await check.try_secret(given.encode(), facts)
        if tried.verdict is not Verdict.RIGHT:
            return _wrong_secret_page(tried, wanted, by_name=by_name)
        session, value = sessions.begin(tried.person.name if tried.person else None)
        facts.who, facts.action = session.name or f"session {session.id}", "signed in"
        response = RedirectResponse(local_path(wanted), status_code=303)
        set_cookie(context, request, response, value)
        return response

    async def ask_to_leave(request: Request) -> Response:
        return page("logout.html", headers=FORM_HEADERS, signed_in=session_of(request) is not None)

    async def sign_out(request: Request) -> Response:
        if not may_act(context, request):
            return _from_elsewhere()
        session = session_of(request)
        if session is not None:
            facts = facts_of(request.scope)
            facts.who, facts.action = session.name or f"session {session.id}", "signed out"
            sessions.end(session)
        response = RedirectResponse("/login", status_code=303)
        set_cookie(context, request, response, "")
        return response

    def session_of(request: Request) -> Session | None:
        return sessions.read(cookie_of(context, request))

    return [
        Route("/login", ask, methods=["GET"]),
        Route("/login", sign_in, methods=["POST"]),
        Route("/logout", ask_to_leave, methods=["GET"]),
        Route("/logout", sign_out, methods=["POST"]),
    ]


def local_path(wanted: str) -> str:
    """Return the path to go on to after signing in; `/` for anything that could lead to another server."""
    try:
        parts = urlsplit(wanted)
    except ValueError:
        return "/"
    leads_away = parts.scheme or parts.netloc or not wanted.startswith("/") or wanted.startswith("//")
    # Browsers read a backslash as a slash, and leave out control characters.
    if leads_away or "\\" in wanted or not wanted.isprintable():
        return "/"
    return wanted


def _login_page(
    status_code: int,
    wanted: str,
    problem: str | None = None,
    headers: dict[str, str] | None = None,
    *,
    by_name: bool,
) -> Response:
    shown = {"wanted": local_path(wanted), "problem": problem, "by_name": by_name}
    return page("login.html", status_code, headers={**FORM_HEADERS, **(headers or {})}, **shown)


def _wrong_secret_page(tried: Tried, wanted: str, *, by_name: bool) -> Response:
    if tried.verdict is Verdict.TOO_SOON:
        pause = tried.pause_seconds
        problem = f"Too many wrong secrets came from this address. Wait {pause} s, then try again."
        return _login_page(429, wanted, problem, {"Retry-After": str(pause)}, by_name=by_name)
    problem = "That is not the secret. It is the value of ADMIN_SECRET on the server."
    if by_name:
        problem = "Name and secret do not belong together."
    return _login_page(401, wanted, problem, by_name=by_name)


def _from_elsewhere() -> Response:
    return error_page(
        403,
        "This form was not sent from this server's own page",
        "Open the page again and send it from there.",
    )
