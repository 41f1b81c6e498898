"""Whether a month is held is seen without waiting or taking it from anyone, and the dead hold nothing."""

import subprocess
import sys
from pathlib import Path

from spell_billing.core.month import Month
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Actor
from spell_billing.orchestration.instance import living_process
from spell_billing.settings.databases import parse_database_url

MARCH, APRIL = Month(2025, 3), Month(2025, 4)
HOLD = """
import sys
from spell_billing.core.month import Month
from spell_billing.settings.databases import parse_database_url
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Actor
ledger = Ledger(parse_database_url(sys.argv[1], setting="DATABASE_URL"))
with ledger.session(Month(2025, 3), Actor("other"), wait_seconds=0):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_holder_in_this_process_is_seen_and_keeps_the_month(database_url: str) -> None:
    url = parse_database_url(database_url, setting="DATABASE_URL")
    with Ledger(url) as ledger, Ledger(url) as other:
        assert not other.is_held(MARCH)
        with ledger.session(MARCH, Actor("test"), wait_seconds=0) as session:
            assert other.is_held(MARCH)
            assert not other.is_held(APRIL)
            session.start_billing()
        assert not other.is_held(MARCH)


def test_a_holder_that_was_killed_holds_nothing_any_more(database_url: str) -> None:
    url = parse_database_url(database_url, setting="DATABASE_URL")
    with Ledger(url) as ledger:
        command = [sys.executable, "-c", HOLD, database_url]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            assert ledger.is_held(MARCH)
            process.kill()
        if url.sqlite_path is not None:
            assert list(Path(url.sqlite_path).parent.glob("*.holder")), "a dead holder leaves its name"
        while ledger.is_held(MARCH):
            """PostgreSQL notices in a moment."""
        with ledger.session(MARCH, Actor("test"), wait_seconds=0):
            pass


def test_the_lock_of_a_run_tells_that_it_lives_and_leaves_nothing_behind(database_url: str) -> None:
    url = parse_database_url(database_url, setting="DATABASE_URL")
    with Ledger(url) as ledger, Ledger(url) as other:
        with living_process(ledger) as tags:
            assert other.is_held(tags["spell_billing/lock"])
        assert not other.is_held(tags["spell_billing/lock"])
    if url.sqlite_path is not None:
        assert not list(Path(url.sqlite_path).parent.glob("*run-*"))
