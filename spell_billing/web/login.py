"""The page to sign in with the secret, and to sign out."""

from typing import Any
from urllib.parse import quote, urlsplit

from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from spell_billing.web.context import WebContext
from spell_billing.web.errors import error_page
from spell_billing.web.facts import facts_of
from spell_billing.web.forms import HEADERS, read_fields
from spell_billing.web.pages import page
from spell_billing.web.same_origin import may_act
from spell_billing.web.secret import SecretCheck, Verdict
from spell_billing.web.sessions import Sessions, cookie_of, delete_cookie, is_https, set_cookie


def login_address(connection: HTTPConnection) -> str:
    """Return the address of the page to sign in, which leads back to the one that was asked for."""
    query = connection.url.query
    wanted = connection.scope["path"] + (f"?{query}" if query else "")
    return f"/login?next={quote(wanted, safe='')}" if wanted != "/" else "/login"


def login_routes(context: WebContext, check: SecretCheck, sessions: Sessions) -> list[Route]:
    """Return the routes that everybody reaches: `/login` and `/logout`."""
    login = _Login(context, check, sessions)
    return [
        Route("/login", login.ask, methods=["GET"]),
        Route("/login", login.sign_in, methods=["POST"]),
        Route("/logout", login.ask_to_leave, methods=["GET"]),
        Route("/logout", login.sign_out, methods=["POST"]),
    ]


class _Login:
    def __init__(self, context: WebContext, check: SecretCheck, sessions: Sessions) -> None:
        self._context = context
        self._check = check
        self._sessions = sessions

    async def ask(self, request: Request) -> Response:
        wanted = local_path(request.query_params.get("next", "/"))
        return page("login.html", headers=HEADERS, wanted=wanted, problem=None)

    async def sign_in(self, request: Request) -> Response:
        if not may_act(request, self._context.public_url):
            return _from_elsewhere()
        fields = await read_fields(request)
        wanted = local_path(fields.get("next", "/"))
        facts = facts_of(request.scope)
        verdict, pause = self._check.try_secret(fields.get("secret", "").strip().encode(), facts.address)
        if verdict is Verdict.TOO_SOON:
            facts.action = "secret tried too soon"
            problem = f"Too many wrong secrets came from this address. Wait {pause} s, then try again."
            headers = {**HEADERS, "Retry-After": str(pause)}
            return page("login.html", 429, headers=headers, wanted=wanted, problem=problem)
        if verdict is Verdict.WRONG:
            facts.action = "wrong secret"
            problem = "That is not the secret. It is the value of ADMIN_SECRET on the server."
            return page("login.html", 401, headers=HEADERS, wanted=wanted, problem=problem)
        session, value = self._sessions.begin()
        facts.who, facts.action = f"session {session.id}", "signed in"
        response = RedirectResponse(wanted, status_code=303)
        set_cookie(response, value, https=is_https(self._context, request))
        return response

    async def ask_to_leave(self, request: Request) -> Response:
        return page("logout.html", headers=HEADERS, signed_in=self._session(request) is not None)

    async def sign_out(self, request: Request) -> Response:
        if not may_act(request, self._context.public_url):
            return _from_elsewhere()
        session = self._session(request)
        if session is not None:
            facts = facts_of(request.scope)
            facts.who, facts.action = f"session {session.id}", "signed out"
            self._sessions.end(session)
        response = RedirectResponse("/login", status_code=303)
        delete_cookie(response, https=is_https(self._context, request))
        return response

    def _session(self, request: Request) -> Any:
        return self._sessions.read(cookie_of(request, https=is_https(self._context, request)))


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


def _from_elsewhere() -> Response:
    return error_page(
        403,
        "This form was not sent from this server's own page",
        "Open the page again and send it from there.",
    )
