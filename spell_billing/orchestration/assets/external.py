"""What the lineage shows before and after the four assets: the platform's tables, the invoices at Stripe.

Nothing here is materialized.
"""

import dagster as dg

from spell_billing.orchestration.unstable import OWNERS


def _table(name: str, description: str) -> dg.AssetSpec:
    return dg.AssetSpec(
        name,
        group_name="platform",
        kinds={"table"},
        owners=OWNERS,
        metadata={"dagster/table_name": name},
        description=description,
    )


usage_counters = _table(
    "usage_counters", "The platform's API calls, one row each with its cost, in USAGE_DATABASE_URL."
)
billing_accounts = _table(
    "billing_accounts", "The platform's users with their Stripe customer, currency and plan."
)
billing_plans = _table("billing_plans", "The platform's plans: fee, allowance, minimum, discount. Optional.")
PLATFORM = (
    usage_counters,
    billing_accounts,
    billing_plans,
    _table("plan_subscriptions", "Which user is on which plan, and when. Optional."),
    _table("billing_discounts", "What is taken off the bills of a user or a plan, and when. Optional."),
    _table(
        "rate_cards",
        "The platform's prices for calls, or for a quantity, in place of a stored cost. Optional.",
    ),
)
"""The platform's tables: a freeze reads all of them, in one snapshot."""
stripe_account = dg.AssetSpec(
    ["stripe", "invoices"],
    group_name="stripe",
    kinds={"stripe"},
    owners=OWNERS,
    deps=["stripe_invoices"],
    metadata={"dagster/uri": "https://dashboard.stripe.com/invoices"},
    description="The account's invoices, as users see and pay them. `payments` reads payments back.",
)
