"""Events for the platform: signed webhooks to its own addresses, delivered from the outbox.

What happened is read from the audit trail (`ledger/feed.py`); `GET /v1/changes` in `web` answers the same.
"""
