"""Plans, rate cards and item lines: what they add to a plain month, and what a simulation of prices takes."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.databases import Server
from benchmarks.generator import MONTH
from benchmarks.measure import interleaved, run_way
from benchmarks.months import make_month
from benchmarks.report import Figure, Kind

ITEMS_BY = "endpoint"
DRAFTING_TARGET = 3.0
ASSETS_TARGET = 2.2
SIMULATION_SECONDS = 60.0
MONTHS = 6
_ENDPOINTS = 5
_NEW_PRICES = """
plans:
  pro: {name: Pro, monthly_fee_cents: 2500, included_cents: 10}
move: {basic: pro}
usage_percent: 110
"""


def price(url: str) -> None:
    """Give every user of a PostgreSQL plans with a change in the middle of the month, and price two items."""
    middle = MONTH.start.replace(day=16)
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in (
            # Generated, because that writes the table anew: an update would leave each row in it twice.
            (
                "ALTER TABLE usage_counters ADD COLUMN endpoint text "
                f"GENERATED ALWAYS AS ('/v1/' || (id % {_ENDPOINTS})::text) STORED"
            ),
            (
                "CREATE TABLE billing_plans (plan_id text PRIMARY KEY, name text, included_cents bigint, "
                "monthly_fee_cents bigint, minimum_cents bigint, usage_discount_percent numeric, currency "
                "text)"
            ),
            (
                "INSERT INTO billing_plans VALUES ('basic', 'Basic', 10, 1000, 0, 0, 'usd'), "
                "('pro', 'Pro', 20, 3000, 3500, 10, 'usd')"
            ),
            (
                "CREATE TABLE plan_subscriptions (user_id text, plan_id text, starts_at timestamptz, "
                "ends_at timestamptz)"
            ),
            f"INSERT INTO plan_subscriptions SELECT user_id, 'basic', NULL, '{middle}' FROM billing_accounts",
            f"INSERT INTO plan_subscriptions SELECT user_id, 'pro', '{middle}', NULL FROM billing_accounts",
            (
                "CREATE TABLE rate_cards (plan_id text, item text, model text, unit text, up_to numeric, "
                "unit_price_cents numeric, package_size numeric, valid_from date)"
            ),
            (
                "INSERT INTO rate_cards VALUES (NULL, '/v1/0', 'graduated', 'call', 1, 12.5, NULL, NULL), "
                "(NULL, '/v1/0', 'graduated', 'call', NULL, 2.25, NULL, NULL), "
                "('pro', '/v1/1', 'flat', 'call', NULL, 0.75, NULL, NULL)"
            ),
        ):
            connection.execute(statement)
        connection.execute("VACUUM (ANALYZE)")


def drafting(server: Server, folder: Path, users: int, repeats: int) -> Figure:
    """Measure drafting a month with plans, cards and item lines, against the same month without any."""
    urls = {name: make_month(server, folder, "postgresql", users) for name in ("floor", "ours")}
    price(urls["ours"])
    with tempfile.TemporaryDirectory(dir=folder) as place:
        stores = {name: str(Path(place) / name) for name in urls}
        run_way("months:freeze_and_aggregate", url=urls["floor"], store=stores["floor"])
        run_way("months:freeze_and_aggregate", url=urls["ours"], store=stores["ours"], items_by=ITEMS_BY)
        ways = {name: partial(run_way, "months:draft", url=urls[name], store=stores[name]) for name in urls}
        runs = interleaved(repeats, ways)
    return Figure(
        "pricing",
        f"{users:,} drafts with plans, rate cards and item lines, postgresql",
        "the same without any",
        runs["floor"].seconds,
        runs["ours"].seconds,
        kind=Kind.RATIO,
        target=DRAFTING_TARGET,
        peak_bytes=runs["ours"].peak_bytes,
    )


def simulation(server: Server, folder: Path, users: int, repeats: int) -> Figure:
    """Measure what other prices would have charged in six months."""
    url = make_month(server, folder, "postgresql", users)
    with psycopg.connect(url, autocommit=True) as connection:
        for back in range(1, MONTHS):
            connection.execute(
                f"INSERT INTO usage_counters SELECT id + {back} * 100000000, user_id, cost_cents, "
                f"created_at - interval '{back} months' FROM usage_counters "
                f"WHERE created_at >= '{MONTH.start}' AND created_at < '{MONTH.start.replace(day=29)}'"
            )
    price(url)
    with tempfile.TemporaryDirectory(dir=folder) as store:
        run_way("months:freeze_and_aggregate", url=url, store=store, items_by=ITEMS_BY, months=MONTHS)
        way = partial(run_way, "pricing:simulate", url=url, store=store)
        runs = interleaved(repeats, {"ours": way})
    return Figure(
        "pricing",
        f"simulation of other prices, {MONTHS} months of {users:,} users",
        "none",
        0.0,
        runs["ours"].seconds,
        kind=Kind.AT_MOST,
        target=SIMULATION_SECONDS,
        peak_bytes=runs["ours"].peak_bytes,
    )


def simulate(url: str, store: str) -> Callable[[], dict[str, Any]]:
    """Prepare to simulate other prices in the six months."""
    from spell_billing.ledger.ledger import Ledger  # noqa: PLC0415 - not into the parent's memory
    from spell_billing.reporting.new_pricing import read_pricing  # noqa: PLC0415
    from spell_billing.reporting.simulate import simulate as run  # noqa: PLC0415
    from spell_billing.settings.databases import parse_database_url  # noqa: PLC0415
    from spell_billing.usage.store import UsageStore  # noqa: PLC0415

    ledger = Ledger(parse_database_url(url, setting="DATABASE_URL"))
    pricing = read_pricing(_NEW_PRICES, "new.yaml")

    def act() -> dict[str, Any]:
        first = MONTH.plus(1 - MONTHS)
        found = run(ledger, UsageStore(Path(store)), first, MONTH, pricing=pricing, name="new.yaml")
        return {"users": len(found.users)}

    return act
