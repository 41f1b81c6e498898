"""What Dagster loads."""

from spell_billing.orchestration.build import build_defs

defs = build_defs()
