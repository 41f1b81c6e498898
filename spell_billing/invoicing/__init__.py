"""Drives the ledger to Stripe: draft, pace, retry, recover, finalize, reconcile."""
