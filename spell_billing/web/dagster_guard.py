"""What passes to Dagster's own pages and GraphQL: no change by GET, none at all where reading only."""

import json
from dataclasses import dataclass
from typing import Any

from graphql import FieldNode, GraphQLError, OperationDefinitionNode, OperationType, parse
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from spell_billing.web.errors import json_error
from spell_billing.web.facts import facts_of
from spell_billing.web.middleware import replayed

GRAPHQL = "/graphql"
_NAMED_FIELDS = 5


@dataclass(frozen=True)
class DagsterGuard:
    """Stand before Dagster's app.

    `/graphql` takes JSON by POST only: Dagster itself also runs what stands in an address, which a link on a
    foreign page could hold. What changes something is named in the access log. The websocket serves
    subscriptions, which change nothing.
    """

    app: ASGIApp
    read_only: bool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on to Dagster, unless it changes what it must not."""
        if scope["type"] != "http" or scope["path"] != GRAPHQL:
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        refusal = None
        if request.method == "POST":
            body = await request.body()
            refusal = self._refuse_body(request, body)
            receive = replayed(body, receive)
        # Dagster's page for trying queries is shown; the query in its address is not run.
        elif request.method not in {"GET", "HEAD"} or "text/html" not in request.headers.get("accept", ""):
            words = "GraphQL is asked by POST here.", "Send the query in a JSON body."
            refusal = json_error(405, "graphql_by_post", *words)
        await (refusal or self.app)(scope, receive, send)

    def _refuse_body(self, request: Request, body: bytes) -> Response | None:
        if "application/json" not in request.headers.get("content-type", ""):
            words = "GraphQL is asked in JSON here.", "Send Content-Type: application/json."
            return json_error(415, "not_json", *words)
        query = _query(body)
        if query is None:
            return json_error(400, "no_query", "The body has no GraphQL query.", 'Send {"query": "..."}.')
        # A query that changes something has this word outside of any text; most have not, and pass at once.
        if "mutation" not in query:
            return None
        try:
            changes = _changes(query)
        except (GraphQLError, RecursionError):
            return json_error(400, "no_graphql", "Invalid GraphQL syntax.", "Correct the query.")
        if not changes:
            return None
        facts_of(request.scope).action = f"graphql {' '.join(changes[:_NAMED_FIELDS])}"
        return _refused_to_readers(graphql=True) if self.read_only else None


def reading_only(app: ASGIApp) -> ASGIApp:
    """Refuse whatever is not reading, in a server for people who look and do not act."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        reads = scope["type"] != "http" or scope["method"] in {"GET", "HEAD", "OPTIONS"}
        # Dagster's pages ask in POST; what changes something is refused by what is asked.
        passes = reads or scope["path"] == GRAPHQL
        await (app if passes else _refused_to_readers(graphql=False))(scope, receive, send)

    return serve


def _refused_to_readers(*, graphql: bool) -> Response:
    """Return the refusal of a server that only reads; Dagster's pages show GraphQL's errors to people."""
    message = "This server only reads: nothing is launched or changed through it."
    errors: dict[str, Any] = {"data": None, "errors": [{"message": message}]} if graphql else {}
    return json_error(403, "read_only", message, "Use the server that runs without --read-only.", **errors)


def _query(body: bytes) -> str | None:
    try:
        content = json.loads(body)
    except ValueError:
        return None
    query = content.get("query") if isinstance(content, dict) else None
    return query if isinstance(query, str) else None


def _changes(query: str) -> list[str]:
    """Name what the mutations of a document ask for: fields, and `...` for a fragment."""
    return [
        selection.name.value if isinstance(selection, FieldNode) else "..."
        for definition in parse(query).definitions
        if isinstance(definition, OperationDefinitionNode) and definition.operation is OperationType.MUTATION
        for selection in definition.selection_set.selections
    ]
