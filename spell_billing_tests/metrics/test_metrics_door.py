"""How a scrape is answered: in which form, how often the ledger is asked, and when it does not answer."""

import asyncio
import gzip
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as open_metrics,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from spell_billing.core.errors import SpellBillingError
from spell_billing.ledger.ledger import Ledger
from spell_billing.reporting.metrics import metrics_endpoint, metrics_text
from spell_billing.settings.databases import parse_database_url
from spell_billing_tests.metrics.reading import families, samples

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass
class Answer:
    """What the endpoint answered."""

    status: int
    headers: dict[str, str]
    body: bytes


async def ask(endpoint: Endpoint, method: str = "GET", **headers: str) -> Answer:
    """Send one request to the route /metrics, as a server would."""
    got: list[Any] = []

    async def send(message: Any) -> None:
        got.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": "/metrics", "headers": sent, "query_string": b""}
    await Starlette(routes=[Route("/metrics", endpoint)])(scope, receive, send)
    found = {name.decode(): value.decode() for name, value in got[0]["headers"]}
    return Answer(got[0]["status"], found, b"".join(message["body"] for message in got[1:]))


def get(open_ledger: Callable[[], Ledger], method: str = "GET", **headers: str) -> Answer:
    return asyncio.run(ask(metrics_endpoint(open_ledger), method, **headers))


def test_a_scrape_gets_text_or_open_metrics_as_it_asks(full: Callable[[], Ledger]) -> None:
    plain = get(full, accept="text/plain")
    opened = get(full, accept="application/openmetrics-text; version=1.0.0")

    assert (plain.status, opened.status) == (200, 200)
    assert plain.headers["content-type"].startswith("text/plain; version=")
    assert opened.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    read: Any = open_metrics
    found = list(read(opened.body.decode()))
    assert families(plain.body).keys() == {family.name for family in found}
    assert {family.name: family.unit for family in found if family.unit} == {
        "spell_billing_invoice_amount_cents": "cents",
        "spell_billing_last_billed_month_timestamp_seconds": "seconds",
        "spell_billing_last_billed_timestamp_seconds": "seconds",
        "spell_billing_prepaid_cents": "cents",
        "spell_billing_stripe_request_duration_seconds": "seconds",
    }


def test_a_scrape_is_compressed_where_it_may_be(full: Callable[[], Ledger]) -> None:
    compressed, plain = get(full, accept_encoding="gzip"), get(full)

    assert compressed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert len(compressed.body) < len(plain.body) / 2
    assert gzip.decompress(compressed.body) == plain.body


def test_only_reading_is_allowed(full: Callable[[], Ledger]) -> None:
    refused = get(full, "POST")

    assert (refused.status, set(refused.headers["allow"].split(", "))) == (405, {"GET", "HEAD"})


def test_a_scrape_changes_nothing(full: Callable[[], Ledger]) -> None:
    assert metrics_text(full) == metrics_text(full)


def test_a_database_that_is_down_is_an_error_and_not_a_hang(tmp_path: Path) -> None:
    nowhere = parse_database_url(f"sqlite:///{tmp_path / 'nothing.db'}", setting="DATABASE_URL")

    down = get(lambda: Ledger(nowhere))

    assert down.status == 500
    assert samples(down.body, "spell_billing_up") == {(): 0}
    assert families(down.body).keys() == {"spell_billing_up"}
    with pytest.raises(SpellBillingError, match="does not exist"):
        metrics_text(lambda: Ledger(nowhere))


def test_a_postgresql_server_that_is_gone_is_an_error_and_not_a_hang() -> None:
    gone = parse_database_url("postgresql://billing@127.0.0.1:9/ledger", setting="DATABASE_URL")

    down = get(lambda: Ledger(gone))

    assert (down.status, samples(down.body, "spell_billing_up")) == (500, {(): 0})


def test_a_database_that_does_not_answer_is_not_waited_for_and_not_asked_twice() -> None:
    answer, asked = Event(), []

    def hangs() -> Ledger:
        asked.append("once")
        answer.wait(20)
        raise SpellBillingError("late", remedy="")

    endpoint = metrics_endpoint(hangs, timeout_seconds=0.05)

    async def several() -> list[int]:
        answers = [*await asyncio.gather(ask(endpoint), ask(endpoint)), await ask(endpoint)]
        answer.set()
        return [each.status for each in answers]

    assert asyncio.run(several()) == [500, 500, 500]
    assert asked == ["once"]
