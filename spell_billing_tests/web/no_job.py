"""A code location that loads, but has nothing of ours."""

import dagster as dg

defs = dg.Definitions()
