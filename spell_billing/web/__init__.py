"""The doors for browsers and programs: Dagster's pages behind a secret, the admin endpoints, the webhook."""
