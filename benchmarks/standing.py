"""Where a user stands in an open month: what the platform may ask before each call."""

import statistics
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import psycopg

from benchmarks.databases import Server
from benchmarks.generator import MONTH
from benchmarks.measure import interleaved, run_way
from benchmarks.report import Figure, Kind

TARGET_SECONDS = 0.05
_ASKED = 200
_FORM = "SELECT md5('user-' || %s)::uuid::text"
_NOW = MONTH.end - timedelta(minutes=1)


def measure(server: Server, url: str, what: str, users: int, repeats: int) -> list[Figure]:
    """Measure asking for users of all sizes, one after another, and for the one with the most rows."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE INDEX ON usage_counters (user_id, created_at)")
        connection.execute("ALTER TABLE billing_accounts ADD COLUMN spend_limit_cents bigint")
        connection.execute("UPDATE billing_accounts SET spend_limit_cents = 5000")
        connection.execute("VACUUM (ANALYZE)")
    ledger = server.create("standing_ledger")
    figures = []
    for who, rank, numbers in (
        ("half of the users", "median", _spread(users)),
        ("95 % of the users", "p95", _spread(users)),
        ("the user with most rows", "most", [0]),
    ):
        floor, ours = (
            partial(run_way, "standing:add_up", url=url, numbers=numbers),
            partial(run_way, "standing:ask", url=url, ledger=ledger, numbers=numbers),
        )
        runs = interleaved(repeats, {"floor": floor, "ours": ours})
        rows = f", {runs['floor'].facts['rows']:,} rows" if len(numbers) == 1 else ""
        figures.append(
            Figure(
                "standing",
                f"standing of a user, {what}: {who}{rows}",
                "the sum alone, on an open connection",
                runs["floor"].facts[rank],
                runs["ours"].facts[rank],
                kind=Kind.SHOWN if len(numbers) == 1 else Kind.AT_MOST,
                target=TARGET_SECONDS,
                peak_bytes=runs["ours"].peak_bytes,
            )
        )
    server.drop("standing_ledger")
    return figures


def _spread(users: int) -> list[int]:
    return list(range(0, users, users // _ASKED))


def add_up(url: str, numbers: list[int]) -> Callable[[], dict[str, Any]]:
    """Prepare to add up single users' months on an open connection."""
    connection = psycopg.connect(url, autocommit=True)
    ids = [connection.execute(_FORM, [number]).fetchone()[0] for number in numbers]  # type: ignore[index]
    query = (
        "SELECT count(*), sum(cost_cents) FROM usage_counters "
        "WHERE user_id = %s AND created_at >= %s AND created_at < %s"
    )

    def ask(user_id: str) -> int:
        row = connection.execute(query, [user_id, MONTH.start, MONTH.end]).fetchone()
        return row[0] if row else 0

    return lambda: _timed(ask, ids)


def ask(url: str, ledger: str, numbers: list[int]) -> Callable[[], dict[str, Any]]:
    """Prepare to ask where single users stand, as the endpoint does."""
    from spell_billing.ledger.ledger import Ledger  # noqa: PLC0415 - not into the parent's memory
    from spell_billing.settings.billing import Settings  # noqa: PLC0415
    from spell_billing.web.context import WebContext  # noqa: PLC0415
    from spell_billing.web.settings import WebSettings  # noqa: PLC0415
    from spell_billing.web.standing import Standings  # noqa: PLC0415

    values = {"DATABASE_URL": ledger, "USAGE_DATABASE_URL": url, "ADMIN_SECRET": "a secret of the benchmark"}
    settings = Settings(values)
    context = WebContext(settings, WebSettings(values), Ledger(settings.database), lambda: _NOW)
    standings = Standings(context)
    standings.of("nobody")
    with psycopg.connect(url, autocommit=True) as connection:
        ids = [connection.execute(_FORM, [number]).fetchone()[0] for number in numbers]  # type: ignore[index]

    def of(user_id: str) -> int:
        found = standings.of(user_id)
        return found.so_far_cents if found else 0

    return lambda: _timed(of, ids)


def _timed(ask: Callable[[str], int], ids: list[str]) -> dict[str, Any]:
    seconds, rows = [], 0
    for user_id in ids:
        began = time.perf_counter()
        rows += ask(user_id)
        seconds.append(time.perf_counter() - began)
    p95 = statistics.quantiles(seconds, n=20)[-1] if len(seconds) > 1 else seconds[0]
    return {"median": statistics.median(seconds), "p95": p95, "most": max(seconds), "rows": rows}
