"""Another process at the ledger, driven over its standard input and output.

Usage: `other_process.py hold|migrate URL [MONTH ...]`. It says a line when it is ready and waits for one.
"""

import sys
from contextlib import ExitStack

from spell_billing.core.month import Month
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.migrate import migrate
from spell_billing.ledger.rows import Actor
from spell_billing.settings.databases import create_engine_for, parse_database_url


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(job: str, url: str, *months: str) -> None:
    database = parse_database_url(url, setting="DATABASE_URL")
    if job == "hold":
        with ExitStack() as held:
            ledger = held.enter_context(Ledger(database))
            for month in months:
                held.enter_context(ledger.session(Month.parse(month), Actor("other"), wait_seconds=0))
            say("held")
            sys.stdin.readline()
        return
    engine = create_engine_for(database)
    say("ready")
    sys.stdin.readline()
    say(str(migrate(engine)))
    engine.dispose()


main(*sys.argv[1:])
