"""Starts billing on a server from elsewhere, over its GraphQL, and follows it. Loads no Dagster."""
