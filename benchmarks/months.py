"""Whole months: one to draft, one that is billed already, and one of ten users, by the command line."""

import gc
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.databases import Server
from benchmarks.generator import MONTH, Size, fill_postgres, fill_sqlite
from benchmarks.measure import Run, interleaved, run_command, run_way
from benchmarks.report import Figure, Kind

CALLS_PER_USER = 3
_EMPTY_JOB = Path(__file__).with_name("empty_job.py")
_SMALL_MONTH_USERS = 10
_PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR")


def make_month(server: Server, folder: Path, backend: str, users: int) -> str:
    """Make a database whose month has three calls of every user; give its URL."""
    size = Size(CALLS_PER_USER * users, 0, users)
    if backend == "postgresql":
        url = server.create(f"month_of_{users}_{next(_NUMBERS)}")
        fill_postgres(url, size, evenly=True)
        return url
    path = folder / f"month-of-{users}-{next(_NUMBERS)}.db"
    fill_sqlite(path, size, evenly=True)
    return f"sqlite:///{path}"


_NUMBERS = iter(range(1, 1_000_000))


@contextmanager
def stripe_double(*options: str) -> Iterator[str]:
    """Run the stand-in for Stripe as a process of its own; give its address."""
    command = [sys.executable, "-m", "spell_billing", "stripe-double", "--port", "0"]
    with subprocess.Popen(
        [*command, "--auto-create-customers", *options], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            lines = process.stdout or iter(())
            yield next(line.partition("=")[2].strip() for line in lines if "STRIPE_API_BASE=" in line)
        finally:
            process.terminate()


def environment(home: Path, url: str, stripe: str) -> dict[str, str]:
    """Give the settings of a month's commands: nothing of the caller's is touched."""
    return {
        **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        "SPELL_BILLING_HOME": str(home),
        "DATABASE_URL": url,
        "STRIPE_API_BASE": stripe,
        "STRIPE_API_KEY": "sk_test_any",
    }


def command(*arguments: str) -> list[str]:
    """Give a command of ours."""
    return [sys.executable, "-m", "spell_billing", *arguments]


def freeze_and_aggregate(
    url: str, store: str, items_by: str | None = None, months: int = 1
) -> Callable[[], None]:
    """Prepare to freeze and aggregate the month, or several up to it."""
    from spell_billing.settings.databases import parse_database_url  # noqa: PLC0415 - not into the parent's memory
    from spell_billing.usage.aggregate import aggregate  # noqa: PLC0415
    from spell_billing.usage.contract import SourceRules  # noqa: PLC0415
    from spell_billing.usage.source import open_usage_source  # noqa: PLC0415
    from spell_billing.usage.store import UsageStore  # noqa: PLC0415

    rules = SourceRules(items_by=items_by)
    source = open_usage_source(parse_database_url(url, setting="DATABASE_URL"), rules)

    def act() -> None:
        for back in range(months):
            aggregate(UsageStore(Path(store)).freeze(source, MONTH.plus(-back)))

    return act


def draft(url: str, store: str) -> Callable[[], dict[str, Any]]:
    """Prepare to draft the month, frozen and aggregated before, into the ledger."""
    from spell_billing.invoicing.draft_month import draft_month  # noqa: PLC0415
    from spell_billing.ledger.ledger import Ledger  # noqa: PLC0415
    from spell_billing.ledger.rows import Actor  # noqa: PLC0415
    from spell_billing.settings.databases import parse_database_url  # noqa: PLC0415 - not into the parent's memory
    from spell_billing.usage.source import open_usage_source  # noqa: PLC0415
    from spell_billing.usage.store import UsageStore  # noqa: PLC0415

    database = parse_database_url(url, setting="DATABASE_URL")
    source = open_usage_source(database)
    frozen = UsageStore(Path(store)).latest(MONTH)
    ledger = Ledger(database)

    def act() -> dict[str, Any]:
        if frozen is None:
            raise RuntimeError("the month is not frozen")
        # As the asset does: drafts make no cycles.
        gc.disable()
        with ledger.session(MONTH, Actor("benchmark")) as session:
            draft_month(session, source, frozen)
        return {"drafts": sum(group.users for group in ledger.group_totals(MONTH))}

    return act


def mark_billed(url: str) -> Callable[[], None]:
    """Prepare to mark a drafted month as billed and reconciled, as a run leaves it in the ledger."""
    import sqlalchemy as sa  # noqa: PLC0415 - not into the parent's memory

    from spell_billing.invoicing.reconcile_month import RECONCILED  # noqa: PLC0415
    from spell_billing.ledger.ledger import Ledger  # noqa: PLC0415
    from spell_billing.ledger.rows import Actor  # noqa: PLC0415
    from spell_billing.ledger.schema import invoices, months  # noqa: PLC0415
    from spell_billing.settings.databases import create_engine_for, parse_database_url  # noqa: PLC0415

    database = parse_database_url(url, setting="DATABASE_URL")
    engine = create_engine_for(database)

    def act() -> None:
        with engine.begin() as connection:
            number = sa.cast(invoices.c.id, sa.String)
            connection.execute(
                invoices.update().values(
                    state="finalized",
                    stripe_invoice_id=sa.literal("in_", sa.String) + number,
                    finalized_at=MONTH.end,
                )
            )
            connection.execute(months.update().values(billing_started_at=MONTH.end, billed_at=MONTH.end))
        with Ledger(database) as ledger:
            ledger.record_action(MONTH, Actor("benchmark"), RECONCILED, "as after every run")

    return act


@contextmanager
def billed_month(server: Server, folder: Path, backend: str, users: int) -> Iterator[Mapping[str, str]]:
    """Make a month that is billed already; give the environment of its commands."""
    url = make_month(server, folder, backend, users)
    with tempfile.TemporaryDirectory(dir=folder) as home, stripe_double() as stripe:
        store = str(Path(home) / "usage")
        run_way("months:freeze_and_aggregate", url=url, store=store)
        run_way("months:draft", url=url, store=store)
        run_way("months:mark_billed", url=url)
        yield environment(Path(home), url, stripe)


def finished_month(server: Server, folder: Path, users: int, repeats: int) -> list[Figure]:
    """Measure `bill` on a month that is billed already."""
    figures = []
    for backend in ("postgresql", "sqlite"):
        with billed_month(server, folder, backend, users) as settings:
            bill = command("bill", "--month", str(MONTH))
            run_command(bill, environment=settings)
            runs = interleaved(
                repeats,
                {
                    "floor": lambda: imports("spell_billing.cli.bill", "spell_billing.orchestration.build"),
                    "ours": partial(run_command, bill, environment=settings),
                },
            )
        figures.append(
            Figure(
                "months",
                f"bill on a billed month of {users:,} users, {backend}",
                "the imports alone",
                runs["floor"].seconds,
                runs["ours"].seconds,
                kind=Kind.BEYOND,
                target=3.0,
                peak_bytes=runs["ours"].peak_bytes,
            )
        )
    return figures


def small_month(server: Server, folder: Path, repeats: int) -> list[Figure]:
    """Measure `bill` of ten users, each time on a database and a home of its own.

    Once as the very first run, which makes the ledger's tables and Dagster's storage; once as every later
    month finds them.
    """
    figures: list[Figure] = []
    for backend in ("postgresql", "sqlite"):

        def bill(*, first: bool, backend: str = backend) -> Run:
            url = make_month(server, folder, backend, _SMALL_MONTH_USERS)
            with tempfile.TemporaryDirectory(dir=folder) as home, stripe_double() as stripe:
                settings = environment(Path(home), url, stripe)
                if not first:
                    run_command(command("bill", "--month", str(MONTH.previous())), environment=settings)
                return run_command(command("bill", "--month", str(MONTH)), environment=settings)

        runs = interleaved(
            repeats,
            {
                "floor": lambda: run_command([sys.executable, str(_EMPTY_JOB)]),
                "first": partial(bill, first=True),
                "later": partial(bill, first=False),
            },
        )
        figures.extend(
            Figure(
                "months",
                f"bill of {_SMALL_MONTH_USERS} users, whole command, {which}, {backend}",
                "import dagster, empty job of three assets",
                runs["floor"].seconds,
                runs[name].seconds,
                kind=Kind.RATIO,
                target=2.0,
                peak_bytes=runs[name].peak_bytes,
            )
            for name, which in (("first", "very first run"), ("later", "later month"))
        )
    return figures


def imports(*modules: str) -> Run:
    """Import modules and end."""
    return run_command([sys.executable, "-c", f"import {', '.join(modules)}"])
