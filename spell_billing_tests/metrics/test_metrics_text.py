"""What Prometheus reads: valid text by its own parser, its naming rules, and the ledger's numbers."""

import asyncio
import gzip
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as open_metrics,
)
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp

from spell_billing.core.errors import SpellBillingError
from spell_billing.core.latencies import Latencies
from spell_billing.core.month import Month
from spell_billing.databases import parse_database_url
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.runs import RunRecord, RunResult
from spell_billing.ledger.schema import alerts, events, invoices, months, outbox
from spell_billing.metrics import MONTHS, metrics_app, metrics_text

NOW = datetime.now(UTC)
LAST = Month.containing(NOW).previous()
COUNTERS = {
    "spell_billing_runs",
    "spell_billing_stripe_requests",
    "spell_billing_stripe_rate_limited",
    "spell_billing_alerts_sent",
    "spell_billing_mails_given_up",
}


@pytest.fixture
def url(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SPELL_BILLING_FIRST_MONTH", "2020-01")
    return database_url


@pytest.fixture
def open_ledger(url: str) -> Callable[[], Ledger]:
    return lambda: Ledger(parse_database_url(url, setting="DATABASE_URL"))


@pytest.fixture
def full(open_ledger: Callable[[], Ledger]) -> Callable[[], Ledger]:
    """Fill a ledger with something of everything: the last month is billed, the one before is not."""
    with open_ledger() as ledger:
        with ledger.writing() as connection:
            connection.execute(
                months.insert(),
                [
                    _month(LAST, billed_at=NOW),
                    _month(LAST.plus(-1)),
                    _month(LAST.plus(-MONTHS), billed_at=NOW),
                ],
            )
            connection.execute(
                invoices.insert(),
                [
                    _bill(LAST, 1, "paid", 1234),
                    _bill(LAST, 2, "paid", 1000),
                    _bill(LAST, 3, "paid", 500, "eur"),
                    _bill(LAST, 4, "skipped", -200),
                    _bill(LAST.plus(-1), 1, "planned", 700),
                    _bill(LAST.plus(-MONTHS), 1, "paid", 99),
                ],
            )
            connection.execute(
                alerts.insert(),
                [
                    {"key": key, "channel": channel, "kind": "month_unbilled", "text": "", "sent_at": NOW}
                    for key, channel in (("a", "one"), ("a", "two"), ("b", "one"))
                ],
            )
            connection.execute(events.insert(), [_event("evt_1"), _event("evt_2", handled_at=NOW)])
            connection.execute(
                outbox.insert(),
                [
                    _mail("a"),
                    _mail("b", tries=2),
                    _mail("c", sent_at=NOW, tries=1),
                    _mail("d", given_up_at=NOW, error="no_address"),
                    _mail("e", given_up_at=NOW, error="refused: 550 unknown"),
                ],
            )
        for seconds in (0.2, 0.3, 20.0):
            took = Latencies()
            took.observe(seconds)
            ledger.record_run(
                RunRecord(
                    "run",
                    str(LAST),
                    NOW,
                    NOW,
                    RunResult.DONE,
                    limited=2,
                    requests={"POST /v1/invoices": took},
                )
            )
        ledger.record_run(RunRecord("run", str(LAST), NOW, NOW, RunResult.STOPPED))
    return open_ledger


def families(text: bytes) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


def samples(text: bytes, name: str) -> dict[tuple[str, ...], float]:
    """Give a metric's values by the values of its labels, in the order of the labels' names."""
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if sample.name == name
    }


def test_bills_and_amounts_are_counted_by_month_state_and_currency(full: Callable[[], Ledger]) -> None:
    text = metrics_text(full)

    assert samples(text, "spell_billing_invoices") == {
        ("eur", str(LAST), "paid"): 1,
        ("usd", str(LAST), "paid"): 2,
        ("usd", str(LAST), "skipped"): 1,
        ("usd", str(LAST.plus(-1)), "planned"): 1,
    }
    assert samples(text, "spell_billing_invoice_amount_cents") == {
        ("eur", str(LAST), "paid"): 500,
        ("usd", str(LAST), "paid"): 2234,
        ("usd", str(LAST), "skipped"): 0,
        ("usd", str(LAST.plus(-1)), "planned"): 700,
    }


def test_the_last_billed_month_and_the_unbilled_ones_are_shown(full: Callable[[], Ledger]) -> None:
    text = metrics_text(full)

    assert samples(text, "spell_billing_last_billed_month_timestamp_seconds") == {(): LAST.first_second}
    (billed_at,) = samples(text, "spell_billing_last_billed_timestamp_seconds").values()
    assert billed_at == pytest.approx(NOW.timestamp())
    assert samples(text, "spell_billing_unbilled_months") == {(): MONTHS - 1}


def test_runs_requests_and_latencies_are_sums_over_all_runs(full: Callable[[], Ledger]) -> None:
    text = metrics_text(full)

    assert samples(text, "spell_billing_runs_total") == {
        ("done",): 3,
        ("refused",): 0,
        ("stopped",): 1,
        ("unfinished",): 0,
        ("users_left",): 0,
    }
    assert samples(text, "spell_billing_stripe_requests_total") == {("POST /v1/invoices",): 3}
    assert samples(text, "spell_billing_stripe_rate_limited_total") == {(): 6}
    duration = "spell_billing_stripe_request_duration_seconds"
    assert samples(text, f"{duration}_count") == {("POST /v1/invoices",): 3}
    assert samples(text, f"{duration}_sum") == {("POST /v1/invoices",): pytest.approx(20.5)}
    buckets = {le: value for (_, le), value in samples(text, f"{duration}_bucket").items()}
    assert list(buckets) == ["0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "+Inf"]
    assert list(buckets.values()) == [0, 0, 1, 2, 2, 2, 2, 2, 3]


def test_what_waits_for_people_is_counted(full: Callable[[], Ledger]) -> None:
    text = metrics_text(full)

    assert samples(text, "spell_billing_alerts_sent_total") == {("month_unbilled",): 3}
    assert samples(text, "spell_billing_events_waiting") == {(): 1}
    assert samples(text, "spell_billing_mails_waiting") == {(): 2}
    assert samples(text, "spell_billing_mails_failing") == {(): 1}
    assert samples(text, "spell_billing_mails_given_up_total") == {
        ("bad_address",): 0,
        ("no_address",): 1,
        ("outdated",): 0,
        ("refused",): 1,
    }


def test_an_empty_ledger_has_metrics_too(open_ledger: Callable[[], Ledger]) -> None:
    text = metrics_text(open_ledger)

    assert samples(text, "spell_billing_up") == {(): 1}
    assert samples(text, "spell_billing_unbilled_months") == {(): 1}
    assert samples(text, "spell_billing_last_billed_timestamp_seconds") == {}
    assert set(samples(text, "spell_billing_runs_total").values()) == {0}


def test_names_types_help_and_units_follow_prometheus_rules(full: Callable[[], Ledger]) -> None:
    text = metrics_text(full)
    found = families(text)

    assert {name for name, family in found.items() if family.type == "counter"} == COUNTERS
    for name, family in found.items():
        assert re.fullmatch(r"spell_billing_[a-z0-9_]+", name)
        assert family.documentation.endswith(".")
        assert family.type in {"counter", "gauge", "histogram"}
        assert not name.endswith(("_total", "_count", "_sum", "_bucket"))
        labels = {label for sample in family.samples for label in sample.labels}
        assert labels <= {"month", "state", "currency", "result", "endpoint", "kind", "reason", "le"}
        for sample in family.samples:
            assert (family.type == "counter") == sample.name.endswith("_total")
            assert not re.search(r"_(ms|milliseconds|minutes|bytes_total)$", sample.name)
    lines = text.decode().splitlines()
    for name in found:
        exposed = f"{name}_total" if name in COUNTERS else name
        assert sum(line.startswith(f"# HELP {exposed} ") for line in lines) == 1
        assert sum(line.startswith(f"# TYPE {exposed} ") for line in lines) == 1
    assert len({line.rpartition(" ")[0] for line in lines}) == len(lines)


@dataclass
class Answer:
    """What an ASGI app answered."""

    status: int
    headers: dict[str, str]
    body: bytes


async def ask(app: ASGIApp, method: str = "GET", **headers: str) -> Answer:
    """Send one request to the route /metrics, as a server would."""
    got: list[Any] = []

    async def send(message: Any) -> None:
        got.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": "/metrics", "headers": sent, "query_string": b""}
    await Starlette(routes=[Route("/metrics", app)])(scope, receive, send)
    found = {name.decode(): value.decode() for name, value in got[0]["headers"]}
    return Answer(got[0]["status"], found, b"".join(message["body"] for message in got[1:]))


def get(open_ledger: Callable[[], Ledger], method: str = "GET", **headers: str) -> Answer:
    return asyncio.run(ask(metrics_app(open_ledger), method, **headers))


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

    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")


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

    app = metrics_app(hangs, timeout_seconds=0.05)

    async def several() -> list[int]:
        answers = [*await asyncio.gather(ask(app), ask(app)), await ask(app)]
        answer.set()
        return [each.status for each in answers]

    assert asyncio.run(several()) == [500, 500, 500]
    assert asked == ["once"]


def _month(month: Month, billed_at: datetime | None = None) -> dict[str, Any]:
    values = {"usage_version": "v0001", "users": 1, "calls": 1, "usage_cents": 1}
    return {"month": str(month), **values, "drafted_at": NOW, "billed_at": billed_at}


def _bill(month: Month, number: int, state: str, cents: int, currency: str = "usd") -> dict[str, Any]:
    zeros = ("included_cents", "covered_cents", "late_cents", "credit_applied_cents", "carried_cents")
    others = ("late_lines", "unbilled_calls", "unbilled_usage_cents", "usage_cents", "calls")
    return {
        **dict.fromkeys((*zeros, *others), 0),
        **dict.fromkeys(("description", "lines", "lines_hash", "run_id"), ""),
        **dict.fromkeys(("created_at", "updated_at"), NOW),
        "month": str(month),
        "user_id": f"user-{number:04d}",
        "generation": 1,
        "request_attempt": 1,
        "state": state,
        "currency": currency,
        "total_cents": cents,
    }


def _event(event_id: str, handled_at: datetime | None = None) -> dict[str, Any]:
    at = {"created_at": NOW, "received_at": NOW, "handled_at": handled_at}
    return {"event_id": event_id, "type": "invoice.paid", "way": "sensor", "content": "{}", **at}


def _mail(key: str, **said: Any) -> dict[str, Any]:
    usual = {"template": "finalized", "month": str(LAST), "user_id": "user-0001", "content": "{}", "tries": 0}
    at = {"created_at": NOW, "next_try_at": NOW, "sent_at": None, "given_up_at": None, "error": None}
    return {"key": key, **usual, **at, **said}
