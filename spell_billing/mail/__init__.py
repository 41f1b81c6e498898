"""Mail to users about their invoices: off unless MAIL_URL is set, because Stripe sends its own.

Letters, the mail server, and delivery from the ledger's outbox. Alerts to operators are in `alerts`.
"""
