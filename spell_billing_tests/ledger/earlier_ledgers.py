"""Ledgers of earlier revisions, made by the migrations that made those in the field."""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config


def make_earlier(connection: sa.Connection, revision: str) -> None:
    """Make an empty ledger as it was at a revision before 0018."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("earlier")))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
