"""Follows what becomes of invoices after they are finalized: see docs/payments.md.

Events in, payments, refunds, disputes, voids and edits; dunning where it is switched on. Invoices are
read here and not changed, but for asking Stripe to collect again.
"""
