"""Events for the platform: signed webhooks to its own addresses, delivered from the outbox."""
