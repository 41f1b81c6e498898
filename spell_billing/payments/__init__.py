"""Follows what becomes of invoices after they are finalized: see docs/payments.md.

Events in, payments, refunds, disputes, voids and edits; dunning where it is switched on. Invoices are
read here and not changed, but for asking Stripe to collect again.

What asks Stripe raises `StripeProblem` when it does not answer and `StripeAccountError` when it refuses the
account. What was answered before is written down by then, and the next tick goes on from there.
"""
