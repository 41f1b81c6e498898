"""`spell-billing init-db`: make the ledger's tables."""

import click

from spell_billing.cli.common import clear_errors


@click.command("init-db")
def command() -> None:
    """Make the ledger's tables, or bring them up to date. Safe to repeat."""
    from spell_billing.ledger.lock import require_sessions  # noqa: PLC0415
    from spell_billing.ledger.migrate import migrate  # noqa: PLC0415
    from spell_billing.settings.billing import Settings  # noqa: PLC0415
    from spell_billing.settings.databases import create_engine_for, database_errors  # noqa: PLC0415 - heavy: SQLAlchemy

    with clear_errors():
        url = Settings.from_environment().database
        with database_errors(url):
            if url.sqlite_path is not None:
                url.sqlite_path.parent.mkdir(parents=True, exist_ok=True)
            engine = create_engine_for(url)
            try:
                require_sessions(url, engine)
                changed = migrate(engine)
            finally:
                engine.dispose()
        click.echo(f"The ledger in {url} is {'now' if changed else 'already'} up to date.")
