"""A platform that is billed through Dagster's job on a real instance, and the sensors that watch it."""

import socket
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import dagster as dg
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)

from spell_billing.core.month import Month
from spell_billing.invoicing.review import approve
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Actor
from spell_billing.orchestration.build import build_defs
from spell_billing.orchestration.resources import AlertResource, LedgerResource, StripeResource, UsageResource
from spell_billing.settings.databases import parse_database_url
from spell_billing.stripe_double import StripeDouble
from spell_billing_tests.alerting.receivers import WebReceiver

KEY = "sk_test_sensors"
P = ParamSpec("P")
T = TypeVar("T")


def on_its_own(function: Callable[P, T]) -> Callable[P, T]:
    """Run a function in a context of its own.

    What Dagster's daemon and ticks open sets its state there, and is undone whenever it is collected: in the
    middle of another test, which would find a closed instance.
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return copy_context().run(function, *args, **kwargs)

    return run


@dataclass
class World:
    """Tables, ledger and store, Stripe's double, a Dagster instance, and a web service that takes alerts."""

    url: str
    source: Any
    double: StripeDouble
    store: Path
    instance: dg.DagsterInstance
    web: WebReceiver
    channels: list[str] = field(default_factory=list)
    cursors: dict[str, str | None] = field(default_factory=dict)
    stripe_base: str = ""

    def __post_init__(self) -> None:
        self.channels = self.channels or [self.web.url()]
        self.stripe_base = self.double.base_url

    def defs(self, **resources: object) -> dg.Definitions:
        usual: dict[str, object] = {
            "ledger": LedgerResource(database_url=self.url),
            "usage": UsageResource(database_url=self.url, store_path=str(self.store)),
            "stripe": StripeResource(
                api_key=KEY,
                api_base=self.stripe_base,
                first_pause_seconds=0.01,
                longest_pause_seconds=0.02,
                tries=2,
                down_seconds=0.3,
                timeout_seconds=5,
            ),
            "alerts": AlertResource(urls=self.channels),
        }
        return build_defs(resource_overrides={**usual, **resources})

    def calls(self, month: str, *rows: tuple[str, int]) -> None:
        """Insert calls as (user, cents) in the middle of a month."""
        moment = Month.parse(month).start.replace(day=15, hour=12)
        self.source.calls([(user, cost, moment) for user, cost in rows])

    def accounts(self, *users: str) -> None:
        """Give users an account, and a customer at Stripe."""
        for user in users:
            self.source.accounts([{"user_id": user, "stripe_customer_id": f"cus_{user}"}])
            self.double.add_customer(f"cus_{user}")

    def run(
        self, month: str, *, assets: list[str] | None = None, tags: dict[str, str] | None = None
    ) -> dg.ExecuteInProcessResult:
        """Run the job, or some of its assets alone."""
        job = self.defs().resolve_job_def("monthly_billing")
        return job.execute_in_process(
            instance=self.instance,
            asset_selection=None if assets is None else [dg.AssetKey(name) for name in assets],
            tags={"dagster/partition": f"{month}-01", **(tags or {})},
            raise_on_error=False,
        )

    def start(self, tags: dict[str, str] | None = None, *, launched: bool = False) -> dg.DagsterRun:
        """Begin a run of 2025-03: one that Dagster launched, or one of a `bill` command's own process."""
        place = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("billing"), "__repository__")
        return self.instance.create_run_for_job(
            self.defs().resolve_job_def("monthly_billing"),
            tags={"dagster/partition": "2025-03-01", **(tags or {})},
            status=dg.DagsterRunStatus.STARTED,
            remote_job_origin=RemoteJobOrigin(place, "monthly_billing") if launched else None,
        )

    def bill(self, month: str, **tags: str) -> dg.ExecuteInProcessResult:
        result = self.run(month, tags=tags)
        assert result.success
        return result

    def bill_approved(self, month: str) -> dg.ExecuteInProcessResult:
        """Bill a month that goes in review; it is approved, and billed again."""
        self.bill(month)
        with self.ledger() as ledger:
            approve(ledger, Month.parse(month), Actor("finance"), "as expected")
        return self.bill(month)

    def tick(self, sensor: str, **resources: object) -> Any:
        """Let a sensor tick as the daemon does it: the cursor is kept only when the tick succeeds.

        A first tick that only says where to begin is followed by the next.
        """
        defs = self.defs(**resources)
        definition = defs.resolve_sensor_def(sensor)
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursors.get(sensor),
            definitions=defs,
            sensor_name=sensor,
            resources={name: (defs.resources or {})[name] for name in definition.required_resource_keys},
        )
        found = on_its_own(definition.evaluate_tick)(context)
        self.cursors[sensor] = found.cursor
        if (found.skip_message or "").startswith("First tick"):
            return self.tick(sensor, **resources)
        return found

    def schedule_tick(self, text: str = "2025-04-01", **resources: object) -> Any:
        """Let the schedule tick as the daemon does it at a time; it takes an instance on disk."""
        defs = self.defs(**resources)
        context = dg.build_schedule_context(
            instance=self.instance,
            scheduled_execution_time=datetime.fromisoformat(text).replace(tzinfo=UTC),
            resources={"ledger": (defs.resources or {})["ledger"]},
            repository_def=defs.get_repository_def(),
        )
        return on_its_own(defs.resolve_schedule_def("monthly_billing_schedule").evaluate_tick)(context)

    def ledger(self) -> Ledger:
        return Ledger(parse_database_url(self.url, setting="DATABASE_URL"))

    def stripe_is_down(self) -> None:
        """Have nobody answer at Stripe's address, until `stripe_is_back`."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.stripe_base = f"http://127.0.0.1:{probe.getsockname()[1]}"

    def stripe_is_back(self) -> None:
        self.stripe_base = self.double.base_url
