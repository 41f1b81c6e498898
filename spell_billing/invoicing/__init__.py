"""From frozen usage to finalized invoices: draft, review, hold, send, sweep, void, credit, reconcile.

All that changes invoices at Stripe is here, and each change is in the ledger before it is asked for. What
becomes of an invoice after it is finalized is for `payments`.

What asks Stripe raises `StripeProblem` when it does not answer, and `StripeAccountError` when nobody can be
billed. What holds a month raises `MonthLockedError` when a run is at it.
"""
