"""Invoicing against the stand-in for Stripe in its own process: at live limits, and as fast as it goes."""

import asyncio
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.databases import Server
from benchmarks.generator import MONTH
from benchmarks.measure import Run, interleaved, run_way
from benchmarks.months import make_month, stripe_double
from benchmarks.report import Figure, Kind

LIVE_LATENCY_SECONDS = 0.3
LIVE_PER_SECOND = 25.0
_LIVE = ("--latency", str(LIVE_LATENCY_SECONDS), "--live-limits")
_AT_ONCE = 64
_ONE_AT_A_TIME = 20


def ours(url: str, stripe: str, *, live: bool) -> Callable[[], dict[str, Any]]:
    """Prepare to drive every bill of the drafted month to a finalized invoice."""
    from spell_billing.core.outcomes import TO_DRIVE  # noqa: PLC0415 - not into the parent's memory
    from spell_billing.invoicing.bill_month import bill_month  # noqa: PLC0415
    from spell_billing.invoicing.report import BillingReport, Outcome  # noqa: PLC0415
    from spell_billing.ledger.ledger import Ledger  # noqa: PLC0415
    from spell_billing.ledger.rows import Actor, Bill  # noqa: PLC0415
    from spell_billing.orchestration.resources import StripeResource  # noqa: PLC0415
    from spell_billing.settings.databases import parse_database_url  # noqa: PLC0415

    ledger = Ledger(parse_database_url(url, setting="DATABASE_URL"))
    users = sum(group.users for group in ledger.group_totals(MONTH) if group.state in TO_DRIVE)
    resource = StripeResource(
        api_key="sk_test_any",
        api_base=stripe,
        requests_per_second=4 * LIVE_PER_SECOND if live else None,
        requests_per_second_per_endpoint=LIVE_PER_SECOND if live else None,
    )
    done_at: list[float] = []

    class Report(BillingReport):
        """Also notes when each invoice was finalized."""

        def invoiced(self, bill: Bill) -> None:
            done_at.append(time.monotonic())
            super().invoiced(bill)

    async def bill() -> Outcome:
        with ledger.session(MONTH, Actor("benchmark")) as session:
            report = Report(logging.getLogger("benchmark"), to_drive=users)
            async with resource.connect(ledger) as gateway:
                return await bill_month(session, gateway, report)

    def act() -> dict[str, Any]:
        outcome = asyncio.run(bill())
        if outcome.invoiced != users:
            raise RuntimeError(f"{outcome.invoiced} of {users} users were invoiced")
        return {
            "invoices": users,
            "sustained_per_second": (len(done_at) - 1) / (done_at[-1] - done_at[0]),
            "requests": sum(each.count for each in outcome.requests.values()),
            "limited": outcome.limited,
        }

    return act


def bare_requests(stripe: str, invoices: int) -> Callable[[], dict[str, Any]]:
    """Prepare the same three requests an invoice with a bare HTTP client: no ledger, no checks."""
    import aiohttp  # noqa: PLC0415 - not into the parent's memory

    headers = {"Authorization": "Bearer sk_test_any", "Stripe-Version": "2026-10-28.endive"}
    create = {"auto_advance": "false", "pending_invoice_items_behavior": "exclude", "currency": "usd"}
    lines = {"lines[0][amount]": "100", "lines[0][description]": "Usage"}

    async def bill() -> None:
        numbers = iter(range(invoices))
        async with aiohttp.ClientSession(stripe, headers=headers) as session:

            async def post(path: str, data: dict[str, str]) -> str:
                async with session.post(path, data=data) as response:
                    response.raise_for_status()
                    return str((await response.json())["id"])

            async def work() -> None:
                for number in numbers:
                    invoice = await post("/v1/invoices", {**create, "customer": f"cus_bare{number}"})
                    await post(f"/v1/invoices/{invoice}/add_lines", lines)
                    await post(f"/v1/invoices/{invoice}/finalize", {"auto_advance": "true"})

            async with asyncio.TaskGroup() as tasks:
                for _ in range(_AT_ONCE):
                    tasks.create_task(work())

    def act() -> dict[str, Any]:
        asyncio.run(bill())
        return {"invoices": invoices, "requests": 3 * invoices}

    return act


def one_at_a_time(stripe: str, invoices: int) -> Callable[[], dict[str, Any]]:
    """Prepare the loop over users that one writes first, with the SDK, three requests an invoice."""
    import stripe as sdk  # noqa: PLC0415 - not into the parent's memory

    client = sdk.StripeClient("sk_test_any", base_addresses={"api": stripe})

    def act() -> dict[str, Any]:
        for number in range(invoices):
            invoice = client.v1.invoices.create(
                {"customer": f"cus_loop{number}", "auto_advance": False, "currency": "usd"}
            )
            client.v1.invoices.add_lines(
                str(invoice.id), {"lines": [{"amount": 100, "description": "Usage"}]}
            )
            client.v1.invoices.finalize_invoice(str(invoice.id), {"auto_advance": True})
        return {"invoices": invoices, "requests": 3 * invoices}

    return act


def measure(server: Server, folder: Path, *, users: int, live_users: int, repeats: int) -> list[Figure]:
    """Measure everything about invoicing."""
    figures = [*_at_live_limits(server, folder, live_users)]
    for backend in ("postgresql", "sqlite"):
        figures += _at_full_speed(server, folder, backend, users, repeats)
    return figures


def _drive(server: Server, folder: Path, backend: str, users: int, *options: str) -> Run:
    url = make_month(server, folder, backend, users)
    with tempfile.TemporaryDirectory(dir=folder) as store, stripe_double(*options) as stripe:
        run_way("months:freeze_and_aggregate", url=url, store=store)
        run_way("months:draft", url=url, store=store)
        return run_way("invoicing:ours", url=url, stripe=stripe, live=bool(options))


def _at_live_limits(server: Server, folder: Path, users: int) -> list[Figure]:
    run = _drive(server, folder, "postgresql", users, *_LIVE)
    with stripe_double(*_LIVE) as stripe:
        loop = run_way("invoicing:one_at_a_time", stripe=stripe, invoices=_ONE_AT_A_TIME)
    limit = f"{LIVE_PER_SECOND:g} requests/s per endpoint"
    what = f"{users:,} invoices at {LIVE_LATENCY_SECONDS:g} s latency and live limits"
    return [
        Figure(
            "invoicing",
            f"{what}, sustained",
            limit,
            LIVE_PER_SECOND,
            run.facts["sustained_per_second"],
            "invoices/s",
            Kind.AT_LEAST,
            24.0,
            run.peak_bytes,
        ),
        Figure(
            "invoicing",
            f"{what}, answered 429",
            "none: 0",
            0.0,
            100 * run.facts["limited"] / run.facts["requests"],
            "% of requests",
            Kind.AT_MOST,
            1.0,
        ),
        Figure(
            "invoicing",
            f"one invoice at a time, {LIVE_LATENCY_SECONDS:g} s latency",
            limit,
            LIVE_PER_SECOND,
            _ONE_AT_A_TIME / loop.seconds,
            "invoices/s",
            peak_bytes=loop.peak_bytes,
        ),
    ]


def _at_full_speed(server: Server, folder: Path, backend: str, users: int, repeats: int) -> list[Figure]:
    def bare() -> Run:
        with stripe_double() as stripe:
            return run_way("invoicing:bare_requests", stripe=stripe, invoices=users)

    runs = interleaved(
        repeats,
        {
            "floor": bare,
            "ours": lambda: _drive(server, folder, backend, users),
            "fewer": lambda: _drive(server, folder, backend, users // 4),
        },
    )
    floor, run, fewer = runs["floor"], runs["ours"], runs["fewer"]
    what = f"{users:,} invoices, no limits, ledger on {backend}"
    return [
        Figure(
            "invoicing",
            what,
            "bare requests",
            users / floor.seconds,
            users / run.seconds,
            "invoices/s",
            Kind.AT_LEAST,
            300.0,
            run.peak_bytes,
        ),
        Figure(
            "invoicing",
            f"{what}, our CPU",
            "bare requests",
            1000 * floor.cpu_seconds / floor.facts["requests"],
            1000 * run.cpu_seconds / run.facts["requests"],
            "ms/request",
            Kind.AT_MOST,
            1.5,
        ),
        Figure(
            "invoicing",
            f"{what}, peak memory against {users // 4:,}",
            "a quarter of the users",
            fewer.peak_bytes / (1 << 20),
            run.peak_bytes / (1 << 20),
            "MB",
            Kind.RATIO,
            1.1,
        ),
    ]
