"""The Stripe client: the official SDK behind the few requests we use, and its errors classified.

One request, once. Pace, retries and what a request means are in `invoicing`.
"""
