"""The ledger: the truth about every user's bill, in SQL tables with an append-only audit trail."""
