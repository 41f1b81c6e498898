"""What is served over HTTP: Dagster's pages behind a secret, endpoints, the webhook, our own pages."""
