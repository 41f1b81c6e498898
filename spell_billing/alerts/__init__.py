"""Operator alerts: what is sent when billing needs a person, once on each channel. See docs/alerts.md.

The words of an alert, and the channels that Apprise delivers to. When to alert is decided by the sensors
and by `payments`; what waits and what went out is in the ledger's outbox.
"""
