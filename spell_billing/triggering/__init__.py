"""Starts billing on a server from elsewhere, over its GraphQL, and follows it.

A light client: it loads neither Dagster nor the ledger. The server's side is in `web`.
"""
