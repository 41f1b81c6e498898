"""The usage source: freezes months of calls into Parquet and aggregates them, whatever database serves."""
