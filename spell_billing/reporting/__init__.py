"""Answers about months and bills, for people and programs: read from the ledger, the store, and Stripe.

Where a month stands, one bill's story, a preview, what changed, readiness, metrics. Nothing is written here,
and nothing sent.
"""
