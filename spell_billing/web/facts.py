"""What is known of a request while it is served, for the log: who asks, from where, and what was done."""

from dataclasses import dataclass

from starlette.types import Scope

_KEY = "spell_billing.facts"


@dataclass(slots=True)
class Facts:
    """Filled in while the request is served.

    `who` is `anonymous`, `secret`, `session <id>`, `user link <user id>` or `stripe`, and `address` the
    client's, or that of a proxy that is not trusted. A request that is `admitted` by the secret or a session
    may see everything. `action` is what it did that is more than looking, as `signed in`.
    """

    who: str = "anonymous"
    address: str = "unknown"
    admitted: bool = False
    action: str | None = None

    @property
    def actor(self) -> str:
        """Name who acts, for the audit trail and for a run's tag."""
        return f"{self.who} from {self.address}"


def facts_of(scope: Scope) -> Facts:
    """Return the facts of a request's scope, which are the same for all that see the request."""
    if _KEY not in scope:
        client = scope.get("client")
        scope[_KEY] = Facts(address=str(client[0]) if client else "unknown")
    facts: Facts = scope[_KEY]
    return facts
