"""What the double counts, as plain JSON."""

from collections import Counter
from typing import Any

from spell_billing.stripe_double.engine import Engine


def summarise(engine: Engine) -> dict[str, Any]:
    """Return counts of objects and requests, and the violations. `total_cents` leaves void invoices out."""
    account = engine.account
    invoices = list(account.invoices)
    return {
        "now": account.clock.unix(),
        "customers": len(account.customers),
        "invoices": dict(Counter(each.status for each in invoices)),
        "total_cents": sum(each.total_cents for each in invoices if each.status != "void"),
        "events": len(account.events),
        "requests": len(engine.requests),
        "writes": sum(each.method != "GET" for each in engine.requests),
        "by_operation": dict(engine.by_operation),
        "rate_limited": engine.rate_limited,
        "replays": engine.replays,
        "idempotency_keys": len(engine.keys),
        "violations": [
            {"billing_key": each.billing_key, "invoices": list(each.invoices)} for each in account.violations
        ],
    }
