"""Payment readiness: who owes something for the month so far and cannot pay, as Stripe says."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from click.testing import CliRunner

from spell_billing.cli import main
from spell_billing.core.errors import StripeSilentError
from spell_billing.core.month import Month
from spell_billing.orchestration.build import build_defs
from spell_billing.orchestration.resources import AlertResource, LedgerResource, StripeResource, UsageResource
from spell_billing.reporting.readiness import Readiness, check_readiness, owing_so_far
from spell_billing.settings.databases import parse_database_url
from spell_billing.stripe_double.objects import Deleted
from spell_billing.usage.contract import UsageSource
from spell_billing.usage.source import open_usage_source
from spell_billing_tests.alerting.receivers import WebReceiver
from spell_billing_tests.proof.small_platform import KEY, MARCH, SmallPlatform

PRESENT = Month.containing(datetime.now(UTC))


def check(platform: SmallPlatform, source: UsageSource | None = None) -> Readiness:
    url = parse_database_url(platform.url, setting="USAGE_DATABASE_URL")
    owing = owing_so_far(source or open_usage_source(url), MARCH, open_usage_source(url).so_far(MARCH))

    async def ask() -> Readiness:
        async with platform.gateway() as gateway:
            return await check_readiness(MARCH, owing, gateway)

    return asyncio.run(ask())


def open_gaps(platform: SmallPlatform, month: Month = MARCH) -> None:
    """Have a user for each gap, one that can pay, and one that owes nothing."""
    platform.source.plans([{"plan_id": "pro", "name": "Pro", "included_cents": 500}])
    platform.accounts("ready")
    platform.accounts("on-plan", plan_id="pro")
    platform.accounts("covered", plan_id="pro")
    platform.accounts("free")
    platform.source.accounts(
        [
            {"user_id": "no-customer", "stripe_customer_id": " ", "currency": "EUR"},
            {"user_id": "unknown", "stripe_customer_id": "cus_nowhere"},
            {"user_id": "deleted", "stripe_customer_id": "cus_deleted"},
            {"user_id": "no-card", "stripe_customer_id": "cus_no_card"},
        ]
    )
    platform.double.add_customer("cus_no_card", card="none")
    platform.double.engine.account.customers.put(Deleted("cus_deleted", "customer"))  # type: ignore[arg-type]
    platform.calls(
        month,
        *(("ready", 1000), ("on-plan", 700), ("covered", 300), ("free", 0), ("no-account", 50)),
        *(("no-customer", 400), ("unknown", 300), ("deleted", 200), ("no-card", 900)),
        day=1,
    )


@pytest.mark.both_databases
def test_every_user_who_owes_something_and_cannot_pay_is_named_with_the_sum(platform: SmallPlatform) -> None:
    open_gaps(platform)

    found = check(platform)

    assert [(each.owing.user_id, each.gap.value, each.owing.cents) for each in found.unready] == [
        ("no-card", "no_payment_method", 900),
        ("no-customer", "no_stripe_customer", 400),
        ("unknown", "unknown_customer", 300),
        ("deleted", "customer_deleted", 200),
        ("no-account", "no_billing_account", 50),
    ]
    assert found.unready_cents == {"eur": 400, "usd": 1450}
    told = found.as_json()
    # Who is covered by the plan, or has free calls alone, owes nothing.
    assert (told["users"], told["cents"]) == (7, {"eur": 400, "usd": 2650})
    assert told["by_reason"]["no_payment_method"] == {"users": 1, "cents": {"usd": 900}}
    assert {request.method for request in platform.double.requests} == {"GET"}
    assert platform.double.violations == []


@pytest.mark.parametrize(
    ("column", "value", "gap"),
    [
        ("plan_id", "glod", "unknown_plan"),
        ("currency", "dollars", "unknown_currency"),
        ("collection", "carrier pigeon", "unknown_collection"),
        ("net_days", "-3", "invalid_net_days"),
        ("footer", "x" * 6_000, "invoice_text_too_long"),
    ],
)
def test_an_account_that_will_fail_is_named_before_its_month_is_billed(
    light_platform: SmallPlatform, column: str, value: str, gap: str
) -> None:
    open_gaps(light_platform)
    of_user = {
        "stripe_customer_id": "cus_ready",
        "currency": "usd",
        "email": None,
        "plan_id": None,
    } | dict.fromkeys(("plan_name", "included_cents", "collection", "net_days", "po_number", "footer"))
    row = {"user_id": "ready"} | of_user | {column: value}
    if column == "plan_id":
        row["plan_name"] = ""
    if column == "net_days":
        row["collection"] = "send"

    class OneAccount:
        def accounts(self) -> pa.Table:
            return pa.Table.from_pylist([row])

        def plans(self, *_: object) -> None:
            return None

    source: Any = OneAccount()

    assert ("ready", gap) in {
        (each.owing.user_id, each.gap.value) for each in check(light_platform, source).unready
    }


def test_a_customer_of_several_users_is_asked_about_once(light_platform: SmallPlatform) -> None:
    light_platform.double.add_customer("cus_shared", card="none")
    users = ("anna", "bert", "cleo")
    light_platform.source.accounts([{"user_id": user, "stripe_customer_id": "cus_shared"} for user in users])
    light_platform.calls(MARCH, *((user, 100) for user in users))

    assert len(check(light_platform).unready) == 3
    assert len(light_platform.double.requests) == 1


def test_a_user_who_gets_invoices_by_mail_needs_a_customer_and_no_card(
    light_platform: SmallPlatform,
) -> None:
    open_gaps(light_platform)
    url = parse_database_url(light_platform.url, setting="USAGE_DATABASE_URL")

    class WithCollection:
        def accounts(self) -> pa.Table:
            table = open_usage_source(url).accounts()
            place = table.schema.get_field_index("collection")
            return table.set_column(place, "collection", pa.array(["send"] * len(table)))

        def plans(self, *_: object) -> None:
            return None

    source: Any = WithCollection()
    named = [each.owing.user_id for each in check(light_platform, source).unready]

    assert named == ["no-customer", "unknown", "deleted", "no-account"]


def test_a_default_source_is_a_way_to_pay(light_platform: SmallPlatform) -> None:
    light_platform.accounts("anna")
    light_platform.calls(MARCH, ("anna", 100))

    class Old:
        async def send(self, *_: object, **__: object) -> Any:
            customer = {"invoice_settings": {"default_payment_method": None}, "default_source": "card_1"}
            return type("Answer", (), {"object": customer})

    url = parse_database_url(light_platform.url, setting="USAGE_DATABASE_URL")
    usage = open_usage_source(url)
    owing = owing_so_far(usage, MARCH, usage.so_far(MARCH))
    gateway: Any = Old()

    assert asyncio.run(check_readiness(MARCH, owing, gateway)).unready == []


def test_stripe_that_does_not_answer_is_no_finding(light_platform: SmallPlatform) -> None:
    light_platform.accounts("anna")
    light_platform.calls(MARCH, ("anna", 100))
    light_platform.double.arm("error_500_unstored", operation="customers.retrieve", times=10)

    with pytest.raises(StripeSilentError, match="did not say how customer cus_anna pays"):
        check(light_platform)


@pytest.fixture
def command(light_platform: SmallPlatform, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a function that runs the command."""
    monkeypatch.setenv("DATABASE_URL", light_platform.url)
    monkeypatch.setenv("STRIPE_API_KEY", KEY)
    monkeypatch.setenv("STRIPE_API_BASE", light_platform.double.base_url)
    return lambda *arguments: CliRunner().invoke(main, ["readiness", *arguments])


def test_the_command_names_them_and_ends_with_3(light_platform: SmallPlatform, command: Any) -> None:
    open_gaps(light_platform)

    said = command("--month", "2025-03")
    told = command("--month", "2025-03", "--json")

    assert (said.exit_code, told.exit_code) == (3, 3)
    assert said.output.splitlines()[0] == ("no-card: $9.00; no default payment method: the user must add one")
    assert said.output.splitlines()[-1] == "2025-03: 5 of 7 users cannot pay €4.00 and $14.50."
    assert json.loads(told.output)["unready_users"] == 5


def test_without_a_month_it_is_the_present_one_and_all_is_well_with_0(
    light_platform: SmallPlatform, command: Any
) -> None:
    open_gaps(light_platform, MARCH)
    light_platform.calls(PRESENT, ("ready", 100), day=1)

    said = command()

    assert (said.exit_code, said.output) == (0, f"{PRESENT}: everyone who owes something can pay (1 user).\n")


def test_nothing_is_frozen_or_written(light_platform: SmallPlatform, command: Any) -> None:
    open_gaps(light_platform)

    command("--month", "2025-03")

    assert not light_platform.store_path.exists()
    with light_platform.ledger() as ledger:
        assert ledger.months() == []


@pytest.fixture
def job(light_platform: SmallPlatform, tmp_path: Path) -> Any:
    """Give a function that runs the weekly job with a channel for alerts."""

    def run(alert_url: str) -> dg.ExecuteInProcessResult:
        defs = build_defs(
            resource_overrides={
                "ledger": LedgerResource(database_url=light_platform.url),
                "usage": UsageResource(database_url=light_platform.url, store_path=str(tmp_path)),
                "stripe": StripeResource(
                    api_key=KEY, api_base=light_platform.double.base_url, first_pause_seconds=0.01, tries=2
                ),
                "alerts": AlertResource(urls=[alert_url]),
            }
        )
        job = defs.resolve_job_def("payment_readiness")
        with dg.DagsterInstance.ephemeral() as instance:
            return job.execute_in_process(instance=instance, raise_on_error=False)

    return run


def test_the_weekly_check_alerts_once_with_count_and_sum(light_platform: SmallPlatform, job: Any) -> None:
    open_gaps(light_platform, PRESENT)

    with WebReceiver().running() as operators:
        assert all(job(operators.url("a")).success for _ in range(2))

    (text,) = operators.texts
    assert text.startswith(f"5 users of {PRESENT} have no way to pay €4.00 and $14.50")
    assert "no-card, no-customer, unknown" in text
    assert f"spell-billing readiness --month {PRESENT}" in text


def test_the_weekly_check_is_silent_when_everybody_can_pay(light_platform: SmallPlatform, job: Any) -> None:
    light_platform.accounts("ready")
    light_platform.calls(PRESENT, ("ready", 100), day=1)

    with WebReceiver().running() as operators:
        assert job(operators.url("a")).success

    assert operators.texts == []


def test_a_weekly_check_that_fails_is_alerted_on(light_platform: SmallPlatform, job: Any) -> None:
    light_platform.sql("DROP TABLE usage_counters")

    with WebReceiver().running() as operators:
        assert not job(operators.url("a")).success

    (text,) = operators.texts
    assert "usage_counters is missing" in text


def test_the_schedule_asks_for_one_check_a_week_and_none_without_a_key() -> None:
    defs = build_defs()
    definition = defs.resolve_schedule_def("payment_readiness_schedule")

    def tick(day: int, **stripe: str) -> Any:
        context = dg.build_schedule_context(
            scheduled_execution_time=datetime(2026, 11, day, 6, tzinfo=UTC),
            resources={"stripe": StripeResource(**stripe)},  # type: ignore[arg-type]
        )
        return definition.evaluate_tick(context)

    assert definition.cron_schedule == "0 6 * * 1"
    assert [request.run_key for day in (2, 2, 9) for request in tick(day, api_key=KEY).run_requests] == [
        "2026-W45",
        "2026-W45",
        "2026-W46",
    ]
    assert tick(2).skip_message.startswith("STRIPE_API_KEY is not set")
