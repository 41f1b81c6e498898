"""`spell-billing trigger` towards a real server with a real daemon: one month at a time."""

import pytest

from spell_billing.orchestration.assets.common import ACTOR_TAG
from spell_billing.orchestration.billing_runs import PARTITION_TAG
from spell_billing.orchestration.jobs import monthly_billing
from spell_billing.triggering import dagster_side
from spell_billing_tests.triggering.served import Running, Served


def test_a_month_is_billed_and_its_steps_are_told(served: Served) -> None:
    served.usage("2025-01", {"user-0001": 100, "user-0002": 250})

    run = served.trigger("--month", "2025-01", "--wait")

    assert run.end() == 0, run.output
    for words in (
        f"2025-01  launched: {served.url}/runs/",
        "2025-01  Starting monthly billing process",
        "2025-01  Processing billing for period: 2025-01-01 to 2025-01-31",
        "2025-01  raw_usage: done in ",
        "2025-01  stripe_invoices: done in ",
        "2025-01  Monthly billing completed: 2 successful, 0 errors",
        "2025-01  billed: 2 users invoiced ($3.50), 0 left without an invoice, 0 skipped",
    ):
        assert words in run.output, run.output
    assert sorted(invoice.total_cents for invoice in served.invoices("2025-01")) == [100, 250]
    (seen,) = served.runs("2025-01")
    assert seen["actor"].startswith("trigger ")

    again = served.trigger("--month", "2025-01", "--wait")

    assert again.end() == 0, again.output
    assert again.output == "2025-01  is already billed: there is nothing to do.\n"
    assert len(served.runs("2025-01")) == 1

    verified = served.trigger("--month", "2025-01", "--wait", "--verify")

    assert verified.end() == 0, verified.output
    assert "2025-01  Asked Stripe what stands: " in verified.output, verified.output
    assert len(served.runs("2025-01")) == 2
    assert len(served.invoices("2025-01")) == 2


def test_users_left_without_an_invoice_end_it_with_3(served: Served) -> None:
    served.usage("2025-02", {"user-0001": 100, "user-0009": 50}, without_account=["user-0009"])

    run = served.trigger("--month", "2025-02", "--wait")

    assert run.end() == 3, run.output
    assert "2025-02  Failed to bill user user-0009: " in run.output
    assert "2025-02  partial: 1 users invoiced ($1.00), 1 left without an invoice, 0 skipped" in run.output
    assert "2025-02  1 failed (no_billing_account): user-0009. " in run.output


def test_a_run_that_fails_ends_it_with_1_and_the_reason(served: Served) -> None:
    # What the platform's table allows and billing does not: a call that costs a fraction of a cent.
    served.source.execute(
        "INSERT INTO usage_counters (id, user_id, cost_cents, created_at) "
        "VALUES (900, 'user-0001', 0.5, '2025-03-09T00:00:00+00:00')"
    )

    run = served.trigger("--month", "2025-03", "--wait")

    assert run.end() == 1, run.output
    wrong = "no_bad_rows: 1 row of usage_counters cannot be billed: id 900: cost_cents is 0.5"
    assert f"2025-03  check failed: {wrong}" in run.output, run.output
    assert "2025-03  raw_usage_no_bad_rows: FAILED\n" in run.output
    assert f"2025-03  the run ended with failure: {wrong}" in run.output
    assert served.invoices("2025-03") == []


def test_a_month_under_way_is_followed_through_a_server_that_is_restarted(served: Served) -> None:
    served.usage("2025-04", {"user-0001": 400})
    with served.held("2025-04"):
        first = served.trigger("--month", "2025-04")
        assert first.end() == 0, first.output
        (seen,) = served.runs("2025-04")

        second = served.trigger("--month", "2025-04", "--wait")
        second.until(f"2025-04  has a run in progress, no other is started: {served.url}/runs/{seen['id']}\n")
        second.until("Processing billing for period")
        served.stop()
        second.until("does not answer")
        served.start()
        second.until("The server answers again.")

    assert second.end() == 0, second.output
    assert "2025-04  billed: 1 users invoiced ($4.00)" in second.output
    assert len(served.runs("2025-04")) == 1
    assert len(served.invoices("2025-04")) == 1


def test_waiting_ends_at_its_time_and_the_run_goes_on(served: Served) -> None:
    served.usage("2025-05", {"user-0001": 500})
    with served.held("2025-05"):
        hurried = served.trigger("--month", "2025-05", "--wait", "--timeout-seconds", "2")

        assert hurried.end() == 1
        assert "Error: Not finished within 2 s; the run continues." in hurried.output

    patient = served.trigger("--month", "2025-05", "--wait")

    assert patient.end() == 0, patient.output
    assert len(served.runs("2025-05")) == 1


@pytest.fixture(scope="module", autouse=True)
def backfill(served: Served) -> Running:
    """Begin a backfill while other months are tested: the daemon takes half a minute to look for one."""
    served.usage("2025-07", {"user-0001": 700})
    served.usage("2025-08", {"user-0001": 800})
    served.usage("2025-09", {"user-0001": 900, "user-0008": 50}, without_account=["user-0008"])
    assert served.trigger("--month", "2025-07", "--wait").end() == 0
    return served.trigger("--backfill", "2025-07..2025-09", "--wait")


def test_a_range_is_one_backfill_and_ends_like_the_worst_of_its_months(
    served: Served, backfill: Running
) -> None:
    run = backfill

    assert run.end() == 3, run.output
    assert "2025-07  is already billed: there is nothing to do." in run.output
    assert "Launched one backfill of 2 months: " in run.output
    assert "2025-08  Monthly billing completed: 1 successful, 0 errors" in run.output
    # A server that is busy may be said to answer again.
    outcomes = [line for line in run.output.split("\n\n")[1].splitlines() if line.startswith("2025")]
    assert [line.partition(":")[0] for line in outcomes] == [
        "2025-07  billed",
        "2025-08  billed",
        "2025-09  partial",
        "2025-09  1 failed (no_billing_account)",
    ]
    assert [len(served.runs(month)) for month in ("2025-07", "2025-08", "2025-09")] == [1, 1, 1]
    assert [len(served.invoices(month)) for month in ("2025-07", "2025-08", "2025-09")] == [1, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--month", "2099-01"], "Error: The server does not bill 2099-01: it bills 2025-01 to "),
        (["--month", "2024-12"], "Error: The server does not bill 2024-12: it bills 2025-01 to "),
        (["--backfill", "2024-11..2025-02"], "Error: The server does not bill 2024-11, 2024-12: it bills "),
    ],
)
def test_months_that_the_server_does_not_bill_are_refused(
    served: Served, arguments: list[str], words: str
) -> None:
    refused = served.trigger(*arguments, "--wait")

    assert refused.end() == 1
    assert refused.output.startswith(words), refused.output
    assert refused.output.count("\n") == 1


def test_a_wrong_secret_is_named_with_its_remedy(served: Served) -> None:
    refused = served.trigger("--month", "2025-01", ADMIN_SECRET="another-secret-0123456789")

    assert refused.end() == 1
    assert refused.output == (
        f"Error: {served.url} does not accept ADMIN_SECRET. "
        "Set ADMIN_SECRET to what the server was started with.\n"
    )
    assert "another-secret" not in refused.output


def test_a_server_that_only_reads_launches_nothing(served: Served) -> None:
    served.usage("2025-10", {"user-0001": 100})
    with served.reader() as reader:
        month = served.trigger("--url", reader, "--month", "2025-10", "--wait")
        assert month.end() == 1
        months = served.trigger("--url", reader, "--backfill", "2025-10..2025-11", "--wait")
        assert months.end() == 1

    for run in (month, months):
        assert run.output == (
            "Error: This server only reads: nothing is launched or changed through it. "
            "Use the server that runs without --read-only.\n"
        )
    assert served.runs("2025-10") == []


def test_the_names_of_the_client_are_those_of_the_server() -> None:
    """The client loads no Dagster, so it has them written down."""
    assert monthly_billing.name == dagster_side.JOB
    assert dagster_side.ACTOR_TAG == ACTOR_TAG
    assert dagster_side.PARTITION_TAG == PARTITION_TAG
