"""The asset checks, one asset a file. See https://docs.dagster.io/guides/test/asset-checks.

Each recomputes its sums with other code than the asset: database against Parquet, pyarrow against DuckDB,
SQL against both.
"""
