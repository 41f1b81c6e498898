"""The gate: everything lies behind the secret or a session but for a few paths that are named here."""

from dataclasses import dataclass

from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from spell_billing.web.context import WebContext
from spell_billing.web.errors import error_answer, error_page, json_error, wants_page
from spell_billing.web.facts import Facts, facts_of
from spell_billing.web.login import SAFE_METHODS, Sessions, cookie_of, login_address, may_act
from spell_billing.web.people import Role
from spell_billing.web.secret import SecretCheck, Verdict

HEADER = "x-admin-secret"
OPEN_PATHS = frozenset({"/login", "/logout", "/stripe/webhook", "/health"})
USER_PAGE_PREFIX = "/u/"
USER_API_PREFIX = "/v1/users/"
FROM_PROXY = "spell_billing.from_proxy"
"""The scope's word for a request that came from a named proxy."""
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
        refusal = await self._try_secret(connection, given) if given else self._try_browser(connection)
        if refusal is None:
            refusal = _try_role(connection)
        if refusal is None:
            await self.guarded_app(scope, receive, send)
        elif scope["type"] == "websocket":
            # Before the handshake is accepted this is answered with status 403.
            await WebSocketClose(_POLICY_VIOLATION)(scope, receive, send)
        elif not given and not facts_of(scope).admitted and _has_link(connection):
            await self.open_app(scope, receive, send)
        else:
            await refusal(scope, receive, send)

    async def _try_secret(self, connection: HTTPConnection, given: list[str]) -> Response | None:
        """Return None for a request that may pass, with its facts filled in, else the answer to it."""
        facts = facts_of(connection.scope)
        # Two of them: a proxy or a client added one to the other's.
        secret = given[0].encode("latin-1") if len(given) == 1 else b""
        tried = await self.check.try_secret(secret, facts)
        pause = tried.pause_seconds
        if tried.verdict is Verdict.RIGHT:
            facts.admit("secret", tried.person)
            return None
        if tried.verdict is Verdict.TOO_SOON:
            words = "Too many wrong secrets came from this address.", f"Wait {pause} s, then try again."
            return json_error(429, "too_many_tries", *words, headers={"Retry-After": str(pause)})
        remedy = "Send the value of ADMIN_SECRET."
        if self.context.web.people:
            remedy = "Send the value of ADMIN_SECRET, or your name and secret as name:secret."
        words = "The secret in X-Admin-Secret is wrong.", remedy
        return json_error(401, "wrong_secret", *words, headers={"Retry-After": str(pause)} if pause else {})

    def _try_browser(self, connection: HTTPConnection) -> Response | None:
        """Return the same for a request without a secret: by the proxy's word, or a session."""
        people, facts = self.context.web.people, facts_of(connection.scope)
        named = self._named_by_proxy(connection)
        session = None
        if named is None:
            session = self.sessions.read(cookie_of(self.context, connection))
            if session is None:
                return _not_signed_in(connection)
            named = session.name
        person = None if named is None else people.get(named.casefold())
        if named is not None and person is None:
            return error_answer(
                connection,
                403,
                "unknown_person",
                "The proxy names somebody who is in no line of ADMIN_SECRETS",
                "Have a line added, as anna@example.com:view:proxy.",
            )
        if not may_act(self.context, connection):
            facts.action = "request from another site"
            return json_error(
                403,
                "other_site",
                "The request does not come from a page of this server.",
                "Use the pages themselves, or send X-Admin-Secret. Behind a proxy that changes the Host "
                "header, set SPELL_BILLING_PUBLIC_URL.",
            )
        facts.admit(f"session {session.id}" if session else str(named), person)
        return None

    def _named_by_proxy(self, connection: HTTPConnection) -> str | None:
        """Return whom a named proxy says it has signed in; a name twice is one that a client sent itself."""
        header = self.context.web.user_header
        if header is None or not connection.scope.get(FROM_PROXY):
            return None
        names = [name.strip() for name in connection.headers.getlist(header)]
        return ", ".join(names) if any(names) else None


def require_role(facts: Facts, needed: Role) -> tuple[str, str] | None:
    """Return why someone may not do what needs a role, and what to do about it; None for who may."""
    if facts.role >= needed:
        return None
    return (
        f"{facts.name} has the role {facts.role}, and this needs the role {needed}",
        "Ask somebody who has it, or have the line in ADMIN_SECRETS changed.",
    )


def _try_role(connection: HTTPConnection) -> Response | None:
    """Refuse what a role to view does not cover: whatever is not looking; GraphQL is told by what it asks."""
    scope = connection.scope
    if scope["type"] != "http" or scope["method"] in SAFE_METHODS or scope["path"] == "/graphql":
        return None
    words = require_role(facts_of(scope), Role.OPERATE)
    return error_answer(connection, 403, "role_not_enough", *words) if words else None


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
