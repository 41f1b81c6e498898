"""Follows what becomes of invoices after they are finalized: see docs/payments.md."""
