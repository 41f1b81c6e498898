"""The page to sign in with the secret, and to sign out."""

from urllib.parse import quote, urlsplit

from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from spell_billing.web.context import WebContext
from spell_billing.web.errors import error_page
from spell_billing.web.facts import facts_of
from spell_billing.web.pages import FORM_HEADERS, page, read_fields
from spell_billing.web.secret import SecretCheck, Verdict
from spell_billing.web.sessions import Session, Sessions, cookie_of, may_act, set_cookie


def login_address(connection: HTTPConnection) -> str:
    """Return the address of the page to sign in, which leads back to the one that was asked for."""
    query = connection.url.query
    wanted = connection.scope["path"] + (f"?{query}" if query else "")
    return f"/login?next={quote(wanted, safe='')}" if wanted != "/" else "/login"


def login_routes(context: WebContext, check: SecretCheck, sessions: Sessions) -> list[Route]:
    """Return the routes that everybody reaches: `/login` and `/logout`."""

    async def ask(request: Request) -> Response:
        return _login_page(200, request.query_params.get("next", "/"))

    async def sign_in(request: Request) -> Response:
        if not may_act(context, request):
            return _from_elsewhere()
        fields = await read_fields(request)
        wanted = fields.get("next", "/")
        facts = facts_of(request.scope)
        verdict, pause = check.try_secret(fields.get("secret", "").strip().encode(), facts)
        if verdict is not Verdict.RIGHT:
            return _not_let_in(verdict, pause, wanted)
        session, value = sessions.begin()
        facts.who, facts.action = f"session {session.id}", "signed in"
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
            facts.who, facts.action = f"session {session.id}", "signed out"
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
    status_code: int, wanted: str, problem: str | None = None, headers: dict[str, str] | None = None
) -> Response:
    headers = {**FORM_HEADERS, **(headers or {})}
    return page("login.html", status_code, headers=headers, wanted=local_path(wanted), problem=problem)


def _not_let_in(verdict: Verdict, pause: int, wanted: str) -> Response:
    if verdict is Verdict.TOO_SOON:
        problem = f"Too many wrong secrets came from this address. Wait {pause} s, then try again."
        return _login_page(429, wanted, problem, {"Retry-After": str(pause)})
    problem = "That is not the secret. It is the value of ADMIN_SECRET on the server."
    return _login_page(401, wanted, problem)


def _from_elsewhere() -> Response:
    return error_page(
        403,
        "This form was not sent from this server's own page",
        "Open the page again and send it from there.",
    )
