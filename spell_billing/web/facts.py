"""What is known of a request while it is served, for the log: who asks, from where, and what was done."""

from dataclasses import dataclass

from starlette.types import Scope

from spell_billing.web.people import Person, Role

_KEY = "spell_billing.facts"


@dataclass(slots=True)
class Facts:
    """Filled in while the request is served.

    `who` is `anonymous`, `secret`, `session <id>`, a person's name, `user link <user id>` or `stripe`, and
    `address` the client's, or that of a proxy that is not trusted. A request that is `admitted` by the secret
    or a session may see everything, and do what its `role` allows; `name` is of a person of `ADMIN_SECRETS`.
    `action` is what it did that is more than looking, as `signed in`.
    """

    who: str = "anonymous"
    address: str = "unknown"
    admitted: bool = False
    name: str | None = None
    role: Role = Role.APPROVE
    action: str | None = None

    def admit(self, who: str, person: Person | None) -> None:
        """Note who is let in: a person by name, or else `who`, who may do everything."""
        self.who, self.admitted = who, True
        if person is not None:
            self.who = self.name = person.name
            self.role = person.role

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
