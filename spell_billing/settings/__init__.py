"""Settings: read from the environment one by one, by the command that needs them, and checked when read.

Billing, review, notifications, and what databases and addresses look like. The server's and mail's own
settings stand in their packages. No secret is ever printed.
"""
