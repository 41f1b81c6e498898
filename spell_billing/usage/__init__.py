"""The usage source: freezes months of calls into Parquet and sums them, whatever database serves.

`contract.py` is what the rest knows of a source; PostgreSQL and SQLite stand behind it. The platform's tables
are only read. Prices and plans are applied in `core`.
"""
