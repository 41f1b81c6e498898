"""What is served over HTTP: Dagster's pages behind a secret, endpoints, the webhook, our own pages.

Who may come in, what is answered, and how it looks. What an endpoint does is in `ledger`, `invoicing`,
`payments` and `reporting`. Body sizes, slow clients and TLS are the reverse proxy's: see docs/serve.md.
"""
