"""What Prometheus reads: valid text by its own parser, its naming rules, and the ledger's numbers."""

import re
from collections.abc import Callable

import pytest

from spell_billing.ledger.ledger import Ledger
from spell_billing.reporting.metrics import MONTHS, metrics_text
from spell_billing_tests.metrics.contents import LAST, NOW
from spell_billing_tests.metrics.reading import families, samples

COUNTERS = {
    "spell_billing_runs",
    "spell_billing_stripe_requests",
    "spell_billing_stripe_rate_limited",
    "spell_billing_alerts_sent",
    "spell_billing_mails_given_up",
}


@pytest.mark.both_databases
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


@pytest.mark.both_databases
def test_runs_requests_and_latencies_are_sums_over_all_runs(full: Callable[[], Ledger]) -> None:
    text = metrics_text(full)

    assert samples(text, "spell_billing_runs_total") == {
        ("done",): 3,
        ("in_review",): 0,
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
