"""Fixtures of the Dagster layer: a platform with usage, a Stripe double, and the job run between them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from spell_billing.core.month import Month
from spell_billing.invoicing.review import approve
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Actor, Bill
from spell_billing.orchestration import partitions
from spell_billing.orchestration.build import build_defs
from spell_billing.orchestration.resources import LedgerResource, StripeResource, UsageResource
from spell_billing.settings.databases import parse_database_url
from spell_billing.stripe_double import Invoice, StripeDouble

KEY = "sk_test_dagster_layer"
SETTINGS = (
    *("DATABASE_URL", "USAGE_DATABASE_URL", "DAGSTER_HOME", "DAGSTER_POSTGRES_URL"),
    *("STRIPE_API_KEY", "STRIPE_API_BASE", "STRIPE_WEBHOOK_SECRET", "ADMIN_SECRET"),
    *("STRIPE_REQUESTS_PER_SECOND", "STRIPE_REQUESTS_PER_SECOND_PER_ENDPOINT"),
    *("SPELL_BILLING_HOME", "SPELL_BILLING_USAGE_STORE", "SPELL_BILLING_FIRST_MONTH"),
)


@pytest.fixture(scope="session")
def starts_migrated() -> bool:
    return True


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let nothing of the caller's environment into a test."""
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SPELL_BILLING_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def shared_double() -> Iterator[StripeDouble]:
    with StripeDouble().running() as double:
        yield double


@pytest.fixture
def double(shared_double: StripeDouble) -> StripeDouble:
    """Give a running double with an empty account."""
    shared_double.reset()
    return shared_double


@dataclass
class Platform:
    """A platform's tables, its ledger and usage store, and the Stripe double that its job bills to."""

    url: str
    source: Any
    double: StripeDouble
    store: Path
    instance: dg.DagsterInstance
    job: dg.JobDefinition = field(init=False)

    def __post_init__(self) -> None:
        defs = build_defs(resource_overrides=self.resources())
        self.job = defs.resolve_job_def("monthly_billing")

    def resources(self) -> dict[str, object]:
        return {
            "ledger": LedgerResource(database_url=self.url),
            "usage": UsageResource(database_url=self.url, store_path=str(self.store)),
            "stripe": StripeResource(
                api_key=KEY, api_base=self.double.base_url, first_pause_seconds=0.01, tries=3
            ),
        }

    def run(
        self,
        month: str | None,
        assets: Sequence[str] | None = None,
        *,
        instance: dg.DagsterInstance | None = None,
        tags: dict[str, str] | None = None,
        config: dict[str, Any] | None = None,
    ) -> dg.ExecuteInProcessResult:
        """Run the job, or some of its assets alone, for a month given as 2025-03.

        The month goes into the run's tags, as a launch over GraphQL does it: Dagster does not check it there.
        Without an instance of its own a run finds one that knows of no other run.
        """
        if instance is None:
            instance = self.instance
            instance.wipe()
        return self.job.execute_in_process(
            run_config=config,
            instance=instance,
            asset_selection=None if assets is None else [dg.AssetKey(name) for name in assets],
            tags={**({"dagster/partition": f"{month}-01"} if month else {}), **(tags or {})},
            raise_on_error=False,
        )

    def bill(self, month: str) -> dg.ExecuteInProcessResult:
        """Run the whole job, which must succeed."""
        result = self.run(month)
        assert result.success, why(result)
        return result

    def bill_approved(self, month: str) -> dg.ExecuteInProcessResult:
        """Run the whole job on a month that goes in review; it is approved, and the job run again."""
        self.bill(month)
        self.approve(month)
        return self.bill(month)

    def approve(self, month: str) -> None:
        """Approve the month as it was reviewed."""
        with self.ledger() as ledger:
            approve(ledger, Month.parse(month), Actor("finance"), "as expected")

    def ledger(self) -> Ledger:
        return Ledger(parse_database_url(self.url, setting="DATABASE_URL"))

    def bills(self, month: str) -> dict[str, Bill]:
        """Give the month's bills by user."""
        with self.ledger() as ledger:
            return {bill.user_id: bill for bill in ledger.bills(Month.parse(month))}

    def invoices(self) -> list[Invoice]:
        """Give the double's finalized invoices, oldest first."""
        return [invoice for invoice in self.double.invoices() if invoice.status != "draft"]

    def calls(self, month: str, *rows: tuple[Any, Any]) -> None:
        """Insert calls as (user, cents) in the middle of a month."""
        moment = Month.parse(month).start.replace(day=15, hour=12)
        self.source.calls([(user, cost, moment) for user, cost in rows])

    def accounts(self, *users: str, **columns: Any) -> None:
        """Give users an account, and a customer `cus_<user>` at Stripe."""
        for user in users:
            self.source.accounts([{"user_id": user, "stripe_customer_id": f"cus_{user}", **columns}])
            self.double.add_customer(f"cus_{user}")


def why(result: dg.ExecuteInProcessResult) -> str:
    """Say why a run failed: descriptions of failed steps and checks."""
    said = [
        f"{check.check_name}: {check.description}"
        for check in result.get_asset_check_evaluations()
        if not check.passed
    ]
    for step in sorted(result.get_failed_step_keys()):
        failure = result.failure_data_for_node(step)
        assert failure is not None
        if failure.user_failure_data is not None:
            said.append(f"{step}: {failure.user_failure_data.description}")
        elif failure.error is not None:
            said.append(f"{step}: {failure.error}")
    return "\n".join(said)


def metadata(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    """Give an asset's materialization metadata as plain values."""
    (event,) = (
        event for event in result.get_asset_materialization_events() if event.asset_key == dg.AssetKey(asset)
    )
    found = event.step_materialization_data.materialization.metadata
    return {name: value.value for name, value in found.items()}


@pytest.fixture
def reason() -> Callable[[dg.ExecuteInProcessResult], str]:
    return why


@pytest.fixture
def metadata_of() -> Callable[[dg.ExecuteInProcessResult, str], dict[str, Any]]:
    return metadata


@pytest.fixture(scope="session")
def emptied_instance() -> Iterator[dg.DagsterInstance]:
    """Give an instance in memory that is emptied before each run: making one takes a tenth of a run."""
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def make_platform(
    make_source_tables: Callable[..., Any],
    double: StripeDouble,
    tmp_path: Path,
    emptied_instance: dg.DagsterInstance,
) -> Callable[..., Platform]:
    """Give `make_platform(url, **types)`: the platform's tables in a database, ready to be billed."""

    def make(url: str, **types: Any) -> Platform:
        return Platform(url, make_source_tables(url, **types), double, tmp_path / "usage", emptied_instance)

    return make


@pytest.fixture
def platform(make_platform: Callable[..., Platform], database_url: str) -> Platform:
    """Give a platform on each database."""
    return make_platform(database_url)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Give `clock("2025-04-30T23:59:59")`: sets the guard's present, UTC."""

    def set_to(moment: str) -> None:
        present = datetime.fromisoformat(moment).replace(tzinfo=UTC)

        class Clock(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
                return present.astimezone(tz)

        monkeypatch.setattr(partitions, "datetime", Clock)

    return set_to
