"""The people of the demo's story: what each of them shows, and the rows that make it happen."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from spell_billing.core.month import Month

DECLINED_PREFIX = "cus_demo_declined_"
DECLINED = "gus"
HELD = "finn"
LATE = "dan"
PREPAID = "cleo"
REFUNDED = "eva"
REFUND_CENTS = 250
GRANT_CENTS = 2_000
HOLD_REASON = "asked for a purchase order number first"
REFUND_REASON = "outage on the 12th"


@dataclass(frozen=True, slots=True)
class Role:
    """One of the story's users: what happened, as the summary says it; `months_back` from the last month."""

    user_id: str
    what: str
    plan_id: str | None = None
    months_back: int = 0
    spend_limit_cents: int | None = None

    def see(self, last: Month) -> str:
        """Return the arguments of the command that shows it."""
        return f"explain --month {last.plus(-self.months_back)} --user {self.user_id}"


CAST: tuple[Role, ...] = (
    Role("ada", "changed from Starter to Team on the 11th: both fees, by time", spend_limit_cents=9_000),
    Role("ben", "pays $0.325 for each translation after the tenth: a rate card"),
    Role(PREPAID, "had bought $20.00 in advance: it pays first"),
    Role(LATE, "made a call that arrived after its month was billed: on the next invoice"),
    Role(REFUNDED, "got $2.50 back on the card, by a credit note", months_back=1),
    Role(HELD, "waits for a purchase order number: held, nothing is sent"),
    Role(DECLINED, "has a card that is declined: the invoice is open, Stripe tries again"),
)
PLANS: tuple[Mapping[str, Any], ...] = (
    {"plan_id": "starter", "name": "Starter", "included_cents": 500, "monthly_fee_cents": 400},
    {"plan_id": "team", "name": "Team", "included_cents": 5_000, "monthly_fee_cents": 3_900},
)
_CARD = {"item": "POST /v1/translate", "model": "graduated", "unit": "call"}
CARDS: tuple[Mapping[str, Any], ...] = (
    {**_CARD, "up_to": 10, "unit_price_cents": "40"},
    {**_CARD, "up_to": None, "unit_price_cents": "32.5"},
)
_CALLS: tuple[tuple[str, int, int], ...] = (
    # endpoint, cents a call, calls a month
    ("GET /v1/words", 2, 40),
    ("POST /v1/check", 5, 60),
    ("POST /v1/translate", 40, 24),
)


def accounts() -> list[dict[str, Any]]:
    """Return the story's rows of `billing_accounts`."""
    prefixes = {DECLINED: DECLINED_PREFIX}
    return [
        {
            "user_id": role.user_id,
            "stripe_customer_id": f"{prefixes.get(role.user_id, 'cus_demo_')}{role.user_id}",
            "currency": "usd",
            "email": f"{role.user_id}@example.com",
            "plan_id": role.plan_id,
            "spend_limit_cents": role.spend_limit_cents,
        }
        for role in CAST
    ]


def subscriptions(last: Month) -> list[dict[str, Any]]:
    """Return the rows of `plan_subscriptions`: a change of plan in the last closed month."""
    changed = f"{last}-11"
    return [
        {"user_id": "ada", "plan_id": "starter", "starts_at": None, "ends_at": changed},
        {"user_id": "ada", "plan_id": "team", "starts_at": changed, "ends_at": None},
    ]


def calls(month: Month, until: datetime) -> Iterator[dict[str, Any]]:
    """Return the story's calls of a month, spread evenly over it, up to `until`."""
    for role in CAST:
        for endpoint, cents, count in _CALLS:
            for number in range(count):
                at = month.start + (month.end - month.start) * (2 * number + 1) / (2 * count)
                if at < until:
                    yield _row(role.user_id, cents, at, endpoint)


def late_call(last: Month) -> dict[str, Any]:
    """Return the call of the month before that arrives when that month is billed."""
    return _row(LATE, 150, last.start - timedelta(hours=2), "POST /v1/documents")


def _row(user_id: str, cents: int, at: datetime, endpoint: str) -> dict[str, Any]:
    return {"user_id": user_id, "cost_cents": cents, "created_at": at, "endpoint": endpoint}
