"""`python -m spell_billing` is the command line."""

from spell_billing.cli import run

run()
