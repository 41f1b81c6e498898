"""Pure rules of billing: months, money, pricing, drafting, errors. No dagster, stripe or sqlalchemy."""
