"""The invoices at Stripe, as the lineage shows them: made by `stripe_invoices`, then paid by users."""

import dagster as dg

from spell_billing.orchestration.assets.stripe_invoices import stripe_invoices
from spell_billing.orchestration.unstable import OWNERS

stripe_account = dg.AssetSpec(
    ["stripe", "invoices"],
    group_name="stripe",
    kinds={"stripe"},
    owners=OWNERS,
    deps=[stripe_invoices],
    metadata={"dagster/uri": "https://dashboard.stripe.com/invoices"},
    description="The account's invoices, as users see and pay them. `payments` reads payments back.",
)
