"""What Dagster loads."""

from spell_billing.build import build_defs

defs = build_defs()
