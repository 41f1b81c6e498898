"""The ledger's numbers for Prometheus: a collector that reads the ledger at each scrape, and an endpoint.

See https://prometheus.io/docs/instrumenting/writing_exporters/.
"""

import asyncio
import gzip
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder, generate_latest, gzip_accepted
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import Response

from spell_billing.core.errors import SpellBillingError
from spell_billing.core.latencies import BOUNDS_SECONDS, Latencies
from spell_billing.ledger.figures import Figures, read_figures
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.mails import GivenUp
from spell_billing.ledger.runs import RunResult
from spell_billing.settings.billing import Settings

MONTHS = 13
"""The present month and a year before it: the label `month` has no more values."""
TIMEOUT_SECONDS = 9.0
"""Prometheus gives up after 10 seconds unless told otherwise."""

_LOG = logging.getLogger(__name__)

OpenLedger = Callable[[], AbstractContextManager[Ledger]]


class LedgerCollector(Collector):
    """Gives the figures of one read as metrics; None stands for a ledger that could not be read."""

    def __init__(self, figures: Figures | None) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """Return every metric, each with the same labels whether or not anything has happened yet."""
        figures = self._figures
        text = f"1, or 0 with status 500 when the ledger cannot be read within {TIMEOUT_SECONDS:.0f} seconds."
        yield GaugeMetricFamily("spell_billing_up", text, value=int(figures is not None))
        if figures is not None:
            yield from _bills(figures)
            yield from _months(figures)
            yield _prepaid(figures)
            yield from _counts(figures)
            yield _durations(figures)


def metrics_text(open_ledger: OpenLedger) -> bytes:
    """Read the ledger once and return all metrics in Prometheus' text format.

    Raises:
        SpellBillingError: when the ledger cannot be read.
    """
    return generate_latest(LedgerCollector(_read(open_ledger, None)))


def metrics_endpoint(
    open_ledger: OpenLedger, *, settings: Settings | None = None, timeout_seconds: float = TIMEOUT_SECONDS
) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint of a server's route `/metrics`.

    A ledger that cannot be read, or not in time, is answered with status 500 and `spell_billing_up 0`. It is
    asked for at each scrape; `settings` are billing's, by default those of the environment.
    """
    reading: asyncio.Task[Figures | None] | None = None

    def read() -> Figures | None:
        try:
            return _read(open_ledger, settings)
        except (SpellBillingError, SQLAlchemyError, OSError) as error:
            _LOG.warning("the ledger could not be read for metrics: %s", type(error).__name__)
            return None

    async def scrape(request: Request) -> Response:
        nonlocal reading
        # Scrapes at the same time share one read: a slow ledger is not asked more often than it answers.
        if reading is None or reading.done():
            reading = asyncio.create_task(asyncio.to_thread(read))
        try:
            figures = await asyncio.wait_for(asyncio.shield(reading), timeout_seconds)
        except TimeoutError:
            figures = None
        encoder, content_type = choose_encoder(",".join(request.headers.getlist("accept")))
        body = encoder(LedgerCollector(figures))
        headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
        if gzip_accepted(",".join(request.headers.getlist("accept-encoding"))):
            body = gzip.compress(body)
            headers["Content-Encoding"] = "gzip"
        return Response(body, status_code=500 if figures is None else 200, headers=headers)

    return scrape


def _read(open_ledger: OpenLedger, settings: Settings | None) -> Figures:
    first = (settings or Settings.from_environment()).first_month
    with open_ledger() as ledger, ledger.reading() as connection:
        return read_figures(connection, first=first, latest_months=MONTHS)


def _bills(figures: Figures) -> Iterator[Metric]:
    labels = ("month", "state", "currency")
    count, amount = Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
    for group in figures.bills:
        named = (group.month, group.state, group.currency)
        count[named] += group.bills
        amount[named] += group.total_cents
    name, text = "spell_billing_invoices", f"Users' latest bills of the last {MONTHS} months."
    yield _filled(GaugeMetricFamily(name, text, labels=labels), count)
    name = "spell_billing_invoice_amount_cents"
    text = f"What bills of the last {MONTHS} months charge, in minor units; credits count as nothing."
    yield _filled(GaugeMetricFamily(name, text, labels=labels, unit="cents"), amount)


def _months(figures: Figures) -> Iterator[Metric]:
    month, billed_at = figures.last_billed or (None, None)
    for name, text, seconds in (
        (
            "spell_billing_last_billed_month_timestamp_seconds",
            "Unix time of the start of the latest month that is billed completely.",
            None if month is None else month.first_second,
        ),
        (
            "spell_billing_last_billed_timestamp_seconds",
            "Unix time when the latest completely billed month was billed.",
            None if billed_at is None else billed_at.timestamp(),
        ),
    ):
        family = GaugeMetricFamily(name, text, labels=(), unit="seconds")
        yield _filled(family, {} if seconds is None else {(): seconds})
    yield GaugeMetricFamily(
        "spell_billing_unbilled_months",
        "Closed months since the first drafted one that are not billed completely.",
        value=figures.unbilled_months,
    )


def _prepaid(figures: Figures) -> Metric:
    text = "What is left of grants, promotional or paid, and still pays for bills, in minor units."
    family = GaugeMetricFamily("spell_billing_prepaid_cents", text, labels=("currency", "kind"), unit="cents")
    kinds = {"promotional": "promotional_cents", "paid": "paid_cents"}
    owed: dict[tuple[str, ...], int] = {
        (each.currency, kind): getattr(each, name) for each in figures.prepaid for kind, name in kinds.items()
    }
    return _filled(family, owed)


def _counts(figures: Figures) -> Iterator[Metric]:
    for name, text, value in (
        ("events_waiting", "Stripe events that were received and not handled yet.", figures.events_waiting),
        ("mails_waiting", "Mails to users to be sent.", figures.mails_waiting),
        ("mails_failing", "Mails to users that failed and are retried.", figures.mails_failing),
    ):
        yield GaugeMetricFamily(f"spell_billing_{name}", text, value=value)
    text = "Requests of billing runs that Stripe answered with 429."
    yield CounterMetricFamily("spell_billing_stripe_rate_limited", text, value=figures.limited)
    results = {result.value: figures.runs.get(result, 0) for result in RunResult}
    requests = {endpoint: took.count for endpoint, took in figures.requests.items()}
    reasons = {reason.value: figures.mails_given_up.get(reason, 0) for reason in GivenUp}
    for name, text, label, values in (
        ("runs", f"Billing runs by how they ended: {', '.join(results)}.", "result", results),
        ("stripe_requests", "Requests to Stripe of billing runs.", "endpoint", requests),
        ("alerts_sent", "Alerts that went out; one on two channels counts twice.", "kind", figures.alerts),
        ("mails_given_up", f"Mails to users that will not be sent: {', '.join(reasons)}.", "reason", reasons),
    ):
        family = CounterMetricFamily(f"spell_billing_{name}", text, labels=(label,))
        yield _filled(family, {(named,): count for named, count in sorted(values.items())})


def _filled(
    family: CounterMetricFamily | GaugeMetricFamily, values: Mapping[tuple[str, ...], float]
) -> Metric:
    """Return a metric with a value for each combination of its labels."""
    for named, value in values.items():
        family.add_metric(named, value)
    return family


def _durations(figures: Figures) -> Metric:
    durations = HistogramMetricFamily(
        "spell_billing_stripe_request_duration_seconds",
        "How long Stripe took to answer requests of billing runs.",
        labels=("endpoint",),
        unit="seconds",
    )
    for endpoint, took in sorted(figures.requests.items()):
        durations.add_metric((endpoint,), _cumulative(took), took.seconds)
    return durations


def _cumulative(took: Latencies) -> list[tuple[str, float]]:
    buckets, so_far = [], 0
    for bound, inside in zip((*map(str, BOUNDS_SECONDS), "+Inf"), took.buckets, strict=True):
        so_far += inside
        buckets.append((bound, float(so_far)))
    return buckets
