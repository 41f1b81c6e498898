"""The demo: a platform with made-up usage, billed at the stand-in for Stripe. Not part of the wheel."""
