"""From frozen usage to finalized invoices: draft, review, hold, send, sweep, void, credit, reconcile.

All that changes invoices at Stripe is here, and each change is in the ledger before it is asked for. What
becomes of an invoice after it is finalized is for `payments`.
"""
