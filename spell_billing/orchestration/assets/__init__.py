"""The four assets, one a file. See https://docs.dagster.io/guides/build/assets."""
