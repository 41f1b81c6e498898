"""Bring ledgers that are older to the comments of tables and columns, which `env.py` writes."""

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    """Change nothing else."""
