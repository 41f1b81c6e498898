"""Every drive of a month leaves a record of how it ended, whatever happened to it."""

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from spell_billing.core.errors import IntegrityError, LedgerLostError, StripeSilentError
from spell_billing.core.latencies import BOUNDS_SECONDS, Latencies, together
from spell_billing.core.month import Month
from spell_billing.invoicing.report import recorded
from spell_billing.ledger.runs import RunResult
from spell_billing.ledger.schema import runs

MARCH = Month(2025, 3)
_LOG = logging.getLogger(__name__)


def newest(plant: Any) -> Any:
    return plant.runs()[0]


def give_account(plant: Any, user: str) -> None:
    plant.source.accounts([{"user_id": user, "stripe_customer_id": f"cus_{user}"}])
    plant.double.add_customer(f"cus_{user}")


@pytest.mark.both_databases
def test_a_month_with_users_left_and_then_without(plant: Any) -> None:
    before = datetime.now(UTC)
    first = plant.bill()
    give_account(plant, "user-0002")
    second = plant.bill()

    later, earlier = plant.runs()
    assert (earlier.result, earlier.invoiced) == (RunResult.USERS_LEFT, 1)
    assert (later.result, later.invoiced) == (RunResult.DONE, 1)
    assert (earlier.run_id, later.run_id) == (first.run_id, second.run_id)
    assert before <= earlier.started_at <= earlier.ended_at <= later.started_at
    assert {name: took.count for name, took in later.requests.items()} == {
        "GET /v1/account": 1,
        "GET /v1/invoices": 1,
        **dict.fromkeys(
            (
                "POST /v1/invoices",
                "POST /v1/invoices/{invoice}/add_lines",
                "POST /v1/invoices/{invoice}/finalize",
            ),
            1,
        ),
    }


def test_a_month_that_was_done_sends_nothing_and_is_recorded(light_plant: Any) -> None:
    give_account(light_plant, "user-0002")
    light_plant.bill()
    light_plant.bill()

    assert (newest(light_plant).result, newest(light_plant).requests) == (RunResult.DONE, {})
    with light_plant.ledger() as ledger:
        assert len(ledger.runs(MARCH, limit=1)) == 1


def test_a_user_whose_outcome_is_unknown_leaves_the_month_unfinished(light_plant: Any) -> None:
    light_plant.double.arm("lost_before", operation="invoices.finalize", times=2)

    light_plant.bill()

    run = newest(light_plant)
    assert (run.result, run.invoiced, run.unfinished) == (RunResult.UNFINISHED, 0, 1)


def test_answers_of_429_are_counted(light_plant: Any) -> None:
    light_plant.double.arm("rate_limited", operation="invoices.create", times=2)

    light_plant.bill()

    run = newest(light_plant)
    assert run.limited == 2
    assert run.requests["POST /v1/invoices"].count == 3


@pytest.mark.parametrize("stripe", [{"api_base": "http://127.0.0.1:9"}, {"down_seconds": 0.0}])
def test_a_stripe_that_does_not_answer_stops_the_run_for_now(
    light_plant: Any, stripe: dict[str, Any]
) -> None:
    light_plant.double.arm("error_500_unstored", times=50)

    result = light_plant.bill(**stripe)

    assert not result.success
    run = newest(light_plant)
    assert (run.result, run.invoiced) == (RunResult.STOPPED, 0)
    assert sum(took.count for took in run.requests.values()) > 0


@pytest.mark.parametrize(
    "stripe", [{"api_key": "sk_revoked"}, {"api_key": "not a key"}, {"api_base": "http://example.com"}]
)
def test_a_key_or_setting_that_is_wrong_is_refused_until_a_person_acts(
    light_plant: Any, stripe: dict[str, Any]
) -> None:
    result = light_plant.bill(**stripe)

    assert not result.success
    assert newest(light_plant).result == RunResult.REFUSED


def test_drafts_that_are_not_the_frozen_usage_are_refused(
    light_plant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differs(*_: object) -> None:
        raise IntegrityError("The drafts differ.", remedy="Do not bill.")

    monkeypatch.setattr(
        "spell_billing.orchestration.assets.stripe_invoices.require_drafts_equal_usage", differs
    )

    light_plant.bill()

    assert newest(light_plant).result == RunResult.REFUSED


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (StripeSilentError("no answer", remedy=""), RunResult.STOPPED),
        (LedgerLostError("lost", remedy=""), RunResult.STOPPED),
        (ZeroDivisionError(), RunResult.STOPPED),
        (KeyboardInterrupt(), RunResult.REFUSED),
    ],
)
def test_any_error_is_recorded_and_raised_as_it_is(
    plant: Any, error: BaseException, result: RunResult, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        plant.ledger() as ledger,
        pytest.raises(type(error)) as caught,
        recorded(ledger, MARCH, "run-1", _LOG),
    ):
        raise error

    assert caught.value is error
    assert [(run.run_id, run.result) for run in plant.runs()] == [("run-1", result)]
    assert caplog.messages == []


def test_a_record_that_cannot_be_written_hides_neither_error_nor_success(
    plant: Any, caplog: pytest.LogCaptureFixture
) -> None:
    plant.ledger().close()
    plant.source.execute("DROP TABLE ledger_runs")

    with plant.ledger() as ledger:
        with recorded(ledger, MARCH, "run-1", _LOG):
            pass
        with pytest.raises(ZeroDivisionError), recorded(ledger, MARCH, "run-2", _LOG):
            raise ZeroDivisionError

    assert [message[:42] for message in caplog.messages] == ["How this run of 2025-03 ended could not be"] * 2


def test_records_keep_every_number(plant: Any) -> None:
    plant.bill()
    with plant.ledger() as ledger, ledger.reading() as connection:
        (content,) = connection.scalars(sa.select(runs.c.requests))

    written = json.loads(content)["POST /v1/invoices"]
    assert written["count"] == sum(written["buckets"]) == 1
    assert Latencies.from_json(written).as_json() == written


def test_latencies_are_counted_into_buckets_up_to_their_bounds() -> None:
    took = Latencies()
    for seconds in (0.01, 0.05, 0.051, 10.0, 10.1, 99.0):
        took.observe(seconds)

    assert took.buckets == [2, 1, 0, 0, 0, 0, 0, 1, 2]
    assert (took.count, round(took.seconds, 3)) == (6, 119.211)
    assert together([took, took, Latencies()]).buckets == [4, 2, 0, 0, 0, 0, 0, 2, 4]
    assert len(took.buckets) == len(BOUNDS_SECONDS) + 1


def test_quantiles_are_estimated_within_buckets() -> None:
    took = Latencies()
    for seconds in [0.2] * 90 + [0.4] * 10:
        took.observe(seconds)
    beyond = Latencies()
    beyond.observe(60)

    assert took.quantile_seconds(0.5) == pytest.approx(0.1 + 0.15 * 50 / 90)
    assert took.quantile_seconds(0.95) == pytest.approx(0.375)
    assert beyond.quantile_seconds(0.95) == 10
    assert (Latencies().quantile_seconds(0.95), Latencies().mean_seconds) == (0, 0)
    assert took.mean_seconds == pytest.approx(0.22)


def test_metadata_of_the_invoices_has_what_finance_plots_as_numbers(
    light_plant: Any, metadata_of: Callable[..., dict[str, Any]]
) -> None:
    found = metadata_of(light_plant.bill(), "stripe_invoices")

    counts = {"users": 2, "calls": 3, "usage_cents": 1734, "invoiced": 1, "invoiced_cents": 1234}
    without = {"failed": 1, "held": 0, "skipped": 0, "parked": 0, "payment_failed": 0, "unfinished": 0}
    assert {name: found[name] for name in {**counts, **without}} == {**counts, **without}
    plotted = (
        *(*counts, *without, "paid", "paid_cents", "stripe_requests", "stripe_429s", "seconds"),
        *("stripe_mean_seconds", "stripe_p95_seconds", "invoiced_in_this_run", "total_cents"),
    )
    assert {name: type(found[name]) for name in plotted if type(found[name]) not in {int, float}} == {}
    assert found["stripe_requests"] == 5
    assert 0 < found["stripe_mean_seconds"] <= found["seconds"] + 0.1


@pytest.fixture
def metadata_of() -> Callable[..., dict[str, Any]]:
    def metadata(result: Any, asset: str) -> dict[str, Any]:
        (event,) = (
            event
            for event in result.get_asset_materialization_events()
            if event.asset_key.to_user_string() == asset
        )
        found = event.step_materialization_data.materialization.metadata
        return {name: value.value for name, value in found.items()}

    return metadata
