"""The ledger: the truth about every user's bill, in SQL tables with an append-only audit trail.

Tables, migrations, the month's lock, and each statement that reads or writes them. Nothing here asks
Stripe or knows of Dagster; amounts come from `core`.
"""
