"""The gate: everything lies behind the secret or a session but for a few paths that are named here."""

from dataclasses import dataclass

from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from spell_billing.web.context import WebContext
from spell_billing.web.errors import error_page, json_error, wants_page
from spell_billing.web.facts import facts_of
from spell_billing.web.login import Sessions, cookie_of, login_address, may_act
from spell_billing.web.secret import SecretCheck, Verdict

HEADER = "x-admin-secret"
OPEN_PATHS = frozenset({"/login", "/logout", "/stripe/webhook", "/health"})
USER_PAGE_PREFIX = "/u/"
USER_API_PREFIX = "/v1/users/"
_POLICY_VIOLATION = 1008


@dataclass(frozen=True)
class Gate:
    """Sends each request to one of two apps; an unauthenticated request never reaches the guarded one.

    The open app has the paths that guard themselves: signing in, the webhook's signature, a user's link. So
    an odd spelling of a path can at worst meet a 404 there. A request for a user's data with a link's token
    and no secret goes there as well: its handler sees `Facts.admitted` unset and checks the token.
    """

    open_app: ASGIApp
    guarded_app: ASGIApp
    context: WebContext
    check: SecretCheck
    sessions: Sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer why it may not pass."""
        if scope["type"] == "lifespan":
            await self.guarded_app(scope, receive, send)
            return
        is_open = scope["path"] in OPEN_PATHS or scope["path"].startswith(USER_PAGE_PREFIX)
        if scope["type"] == "http" and is_open:
            await self.open_app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        given = connection.headers.getlist(HEADER)
        refusal = self._try_secret(connection, given) if given else self._try_session(connection)
        if refusal is None:
            await self.guarded_app(scope, receive, send)
        elif scope["type"] == "websocket":
            # Before the handshake is accepted this is answered with status 403.
            await WebSocketClose(_POLICY_VIOLATION)(scope, receive, send)
        elif not given and _has_link(connection):
            await self.open_app(scope, receive, send)
        else:
            await refusal(scope, receive, send)

    def _try_secret(self, connection: HTTPConnection, given: list[str]) -> Response | None:
        """Return None for a request that may pass, with its facts filled in, else the answer to it."""
        facts = facts_of(connection.scope)
        # Two of them: a proxy or a client added one to the other's.
        secret = given[0].encode("latin-1") if len(given) == 1 else b""
        verdict, pause = self.check.try_secret(secret, facts)
        if verdict is Verdict.RIGHT:
            facts.who, facts.admitted = "secret", True
            return None
        if verdict is Verdict.TOO_SOON:
            words = "Too many wrong secrets came from this address.", f"Wait {pause} s, then try again."
            return json_error(429, "too_many_tries", *words, headers={"Retry-After": str(pause)})
        words = "The secret in X-Admin-Secret is wrong.", "Send the value of ADMIN_SECRET."
        return json_error(401, "wrong_secret", *words, headers={"Retry-After": str(pause)} if pause else {})

    def _try_session(self, connection: HTTPConnection) -> Response | None:
        """Return the same for a request without a secret."""
        session = self.sessions.read(cookie_of(self.context, connection))
        if session is None:
            return _not_signed_in(connection)
        facts = facts_of(connection.scope)
        if not may_act(self.context, connection):
            facts.action = "request from another site"
            return json_error(
                403,
                "other_site",
                "The request does not come from a page of this server.",
                "Use the pages themselves, or send X-Admin-Secret. Behind a proxy that changes the Host "
                "header, set SPELL_BILLING_PUBLIC_URL.",
            )
        facts.who, facts.admitted = f"session {session.id}", True
        return None


def _has_link(connection: HTTPConnection) -> bool:
    reads = connection.scope["method"] in {"GET", "HEAD"}
    if not reads or not connection.scope["path"].startswith(USER_API_PREFIX):
        return False
    bearer = connection.headers.get("authorization", "").lower().startswith("bearer ")
    return bearer or "token" in connection.query_params


def _not_signed_in(connection: HTTPConnection) -> Response:
    if connection.scope["type"] == "http" and wants_page(connection):
        if connection.scope["method"] == "GET":
            return RedirectResponse(login_address(connection), status_code=303)
        return error_page(401, "You are not signed in", "Sign in, then try again.")
    return json_error(
        401,
        "no_secret",
        "This needs the admin secret.",
        "Send it in the header X-Admin-Secret, or sign in at /login.",
    )
