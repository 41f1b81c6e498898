"""Stripe's wire: the official SDK behind the few requests we use, and its errors sorted."""
