"""Pure rules of billing: months, money, pricing, drafting, lines, states and reasons, errors.

Nothing here reads a database, a file, a clock or the network, and nothing imports Dagster, SQLAlchemy or
Stripe's SDK: what a bill is follows from its arguments alone.
"""
