"""The ledger's numbers for Prometheus: a collector that reads the ledger at each scrape, and an endpoint.

See https://prometheus.io/docs/instrumenting/writing_exporters/.
"""

import asyncio
import gzip
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
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
        yield GaugeMetricFamily(
            "spell_billing_up", "1 when the ledger could be read, else 0.", value=int(figures is not None)
        )
        if figures is not None:
            yield from _bills(figures)
            yield from _months(figures)
            yield _prepaid(figures)
            yield from _counts(figures)
            yield _durations(figures)


def metrics_text(open_ledger: OpenLedger, *, settings: Settings | None = None) -> bytes:
    """Read the ledger once and return all metrics in Prometheus' text format.

    `settings` are billing's, by default those of the environment.

    Raises:
        SpellBillingError: when the ledger cannot be read.
    """
    return generate_latest(LedgerCollector(_read(open_ledger, settings)))


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
    count = GaugeMetricFamily(
        "spell_billing_invoices", f"Bills of the last {MONTHS} months by state.", labels=labels
    )
    amount = GaugeMetricFamily(
        "spell_billing_invoice_amount_cents",
        f"What the bills of the last {MONTHS} months charge, in minor units of the currency.",
        labels=labels,
        unit="cents",
    )
    sums: defaultdict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for group in figures.bills:
        both = sums[group.month, group.state, group.currency]
        both[0] += group.bills
        both[1] += group.total_cents
    for named, (bills, total_cents) in sums.items():
        count.add_metric(named, bills)
        amount.add_metric(named, total_cents)
    yield from (count, amount)


def _months(figures: Figures) -> Iterator[Metric]:
    month = GaugeMetricFamily(
        "spell_billing_last_billed_month_timestamp_seconds",
        "Unix time of the start of the latest month that is billed completely.",
        labels=(),
        unit="seconds",
    )
    billed_at = GaugeMetricFamily(
        "spell_billing_last_billed_timestamp_seconds",
        "Unix time when the latest completely billed month was.",
        labels=(),
        unit="seconds",
    )
    if figures.last_billed is not None:
        month.add_metric((), figures.last_billed[0].first_second)
        billed_at.add_metric((), figures.last_billed[1].timestamp())
    yield from (month, billed_at)
    yield GaugeMetricFamily(
        "spell_billing_unbilled_months",
        "Closed months since the first drafted one that are not billed completely.",
        value=figures.unbilled_months,
    )


def _prepaid(figures: Figures) -> Metric:
    prepaid = GaugeMetricFamily(
        "spell_billing_prepaid_cents",
        "What is left of grants and still pays for bills, in minor units of the currency.",
        labels=("currency", "kind"),
        unit="cents",
    )
    for each in figures.prepaid:
        prepaid.add_metric((each.currency, "promotional"), each.promotional_cents)
        prepaid.add_metric((each.currency, "paid"), each.paid_cents)
    return prepaid


def _counts(figures: Figures) -> Iterator[Metric]:
    for name, text, value in (
        (
            "spell_billing_events_waiting",
            "Events of Stripe that were received and not handled yet.",
            figures.events_waiting,
        ),
        ("spell_billing_mails_waiting", "Mails to users to be sent.", figures.mails_waiting),
        (
            "spell_billing_mails_failing",
            "Mails to users that were tried in vain and are tried again.",
            figures.mails_failing,
        ),
    ):
        yield GaugeMetricFamily(name, text, value=value)
    yield CounterMetricFamily(
        "spell_billing_stripe_rate_limited",
        "Requests of all runs that Stripe answered with 429.",
        value=figures.limited,
    )
    results = {result.value: figures.runs.get(result, 0) for result in RunResult}
    requests = {endpoint: took.count for endpoint, took in figures.requests.items()}
    reasons = {reason.value: figures.mails_given_up.get(reason, 0) for reason in GivenUp}
    for name, text, label, values in (
        ("spell_billing_runs", "Billing runs by how they ended.", "result", results),
        ("spell_billing_stripe_requests", "Requests to Stripe of all runs.", "endpoint", requests),
        ("spell_billing_alerts_sent", "Alerts that went out, on each channel.", "kind", figures.alerts),
        (
            "spell_billing_mails_given_up",
            "Mails to users that will not be sent, by reason.",
            "reason",
            reasons,
        ),
    ):
        family = CounterMetricFamily(name, text, labels=(label,))
        for named, count in sorted(values.items()):
            family.add_metric((named,), count)
        yield family


def _durations(figures: Figures) -> Metric:
    durations = HistogramMetricFamily(
        "spell_billing_stripe_request_duration_seconds",
        "How long Stripe took to answer.",
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
