"""What passes to Dagster's own pages and GraphQL: no change by GET, none at all where reading only."""

import json
from dataclasses import dataclass
from typing import Any

from graphql import DocumentNode, FieldNode, GraphQLError, parse
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from spell_billing.web.errors import ApiError, json_error
from spell_billing.web.facts import facts_of
from spell_billing.web.gate import require_role
from spell_billing.web.middleware import replayed
from spell_billing.web.people import Role
from spell_billing.web.run_names import graphql_error, mutations_of, with_name

GRAPHQL = "/graphql"
_NAMED_FIELDS = 5
_READ_ONLY = (
    *(403, "read_only", "This server only reads: nothing is launched or changed through it."),
    "Use the server that runs without --read-only.",
)


@dataclass(frozen=True)
class DagsterGuard:
    """Stand before Dagster's app.

    `/graphql` takes JSON by POST only: Dagster itself also runs what stands in an address, which a link on a
    foreign page could hold. What changes something is named in the access log, and refused to who may only
    view; runs that a person launches by name carry the name. The websocket serves subscriptions, which change
    nothing.
    """

    app: ASGIApp
    read_only: bool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on to Dagster, unless it changes what it must not."""
        if scope["type"] != "http" or scope["path"] != GRAPHQL:
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        app: ASGIApp = self.app
        if request.method == "POST":
            body = await request.body()
            try:
                receive = replayed(self._take(request, body), receive)
            except ApiError as refused:
                app = refused.answer
        # Dagster's page for trying queries is shown; the query in its address is not run.
        elif request.method not in {"GET", "HEAD"} or "text/html" not in request.headers.get("accept", ""):
            words = "GraphQL is asked by POST here.", "Send the query in a JSON body."
            app = json_error(405, "graphql_by_post", *words)
        await app(scope, receive, send)

    def _take(self, request: Request, body: bytes) -> bytes:
        """Return what Dagster is given of a body.

        Raises:
            ApiError: when it is given nothing.
        """
        if "application/json" not in request.headers.get("content-type", ""):
            words = "GraphQL is asked in JSON here.", "Send Content-Type: application/json."
            raise ApiError(415, "not_json", *words)
        content = _content(body)
        query = content.get("query")
        if not isinstance(query, str):
            words = "The body has no GraphQL query.", 'Send {"query": "..."}.'
            raise ApiError(400, "no_query", *words)
        # A query that changes something has this word outside of any text; most have not, and pass at once.
        if "mutation" not in query:
            return body
        try:
            document = parse(query)
            changes = _changes(document)
        except (GraphQLError, RecursionError):
            raise ApiError(400, "no_graphql", "Invalid GraphQL syntax.", "Correct the query.") from None
        if not changes:
            return body
        facts = facts_of(request.scope)
        facts.action = f"graphql {' '.join(changes[:_NAMED_FIELDS])}"
        if self.read_only:
            raise graphql_error(*_READ_ONLY)
        not_allowed = require_role(facts, Role.OPERATE)
        if not_allowed is not None:
            raise graphql_error(403, "role_not_enough", f"{not_allowed[0]}.", not_allowed[1])
        return body if facts.name is None else with_name(document, content, facts)


def reading_only(app: ASGIApp) -> ASGIApp:
    """Refuse whatever is not reading, in a server for people who look and do not act."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        reads = scope["type"] != "http" or scope["method"] in {"GET", "HEAD", "OPTIONS"}
        # Dagster's pages ask in POST; what changes something is refused by what is asked.
        passes = reads or scope["path"] == GRAPHQL
        await (app if passes else json_error(*_READ_ONLY))(scope, receive, send)

    return serve


def _content(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _changes(document: DocumentNode) -> list[str]:
    """Name what the mutations of a document ask for: fields, and `...` for a fragment."""
    selections = mutations_of(document)
    return [each.name.value if isinstance(each, FieldNode) else "..." for each in selections]
