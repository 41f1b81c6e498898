"""What is known of a request while it is served, for the log: who asks, from where, and what was done."""

from dataclasses import dataclass

from starlette.types import Scope

_KEY = "spell_billing.facts"
ANONYMOUS = "anonymous"


@dataclass(slots=True)
class Facts:
    """Filled in while the request is served.

    Attributes:
        who: `anonymous`, `secret`, `session <id>`, `user link <user id>` or `stripe`.
        address: Of the client, or of the proxy where none is trusted.
        admitted: Whether the request carries the secret or a session: then it may see everything.
        action: What the request did that is more than looking, as `signed in`; None for the rest.
    """

    who: str = ANONYMOUS
    address: str = "unknown"
    admitted: bool = False
    action: str | None = None

    @property
    def actor(self) -> str:
        """Name who acts, for the audit trail and for a run's tag."""
        return f"{self.who} from {self.address}"


def facts_of(scope: Scope) -> Facts:
    """Return the facts of a request's scope, which are the same for all that see the request."""
    found = scope.get(_KEY)
    if isinstance(found, Facts):
        return found
    client = scope.get("client")
    facts = Facts(address=str(client[0]) if client else "unknown")
    scope[_KEY] = facts
    return facts
