"""A platform billed in this process, without Dagster: real tables, ledger and store, Stripe's double."""

import asyncio
import http.client
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from pydantic import SecretStr

from spell_billing.core.month import Month
from spell_billing.core.outcomes import UNDONE
from spell_billing.core.terms import USUAL_POLICY, Policy
from spell_billing.invoicing.bill_month import bill_month
from spell_billing.invoicing.changed_accounts import hold_changed_accounts
from spell_billing.invoicing.draft_month import draft_month
from spell_billing.invoicing.findings import Reconciliation
from spell_billing.invoicing.gateway import Gateway, Patience
from spell_billing.invoicing.guards import require_drafts_equal_usage, require_sound_bills
from spell_billing.invoicing.pace import LOOPBACK, Pace
from spell_billing.invoicing.reconcile_month import reconcile_month
from spell_billing.invoicing.report import BillingReport, Outcome
from spell_billing.invoicing.settle import SettledAs, settle_bill, void_bill
from spell_billing.invoicing.usage_versions import (
    earlier_versions,
    pinned_version,
    start_over,
    version_to_draft,
    with_what_came_since,
)
from spell_billing.invoicing.user_drafts import recorded_late_usage
from spell_billing.ledger.credit_notes import CreditNote
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Actor, Bill
from spell_billing.payments.credit import credit_bill
from spell_billing.payments.money_back import read_again
from spell_billing.reporting.explain import explain
from spell_billing.reporting.journal import imbalances, read_journal
from spell_billing.reporting.status import month_status
from spell_billing.settings.databases import DatabaseUrl, parse_database_url
from spell_billing.stripe_api.client import StripeApi
from spell_billing.stripe_double import Invoice, StripeDouble
from spell_billing.usage.aggregate import aggregate
from spell_billing.usage.contract import SourceRules
from spell_billing.usage.source import open_usage_source
from spell_billing.usage.store import UsageStore
from spell_billing_tests.proof.frozen_before import freeze_once

KEY = "sk_test_proof"
MARCH, APRIL, MAY, JUNE = (Month(2025, number) for number in (3, 4, 5, 6))
NOW = datetime(2026, 1, 1, tzinfo=UTC)
_LOG = logging.getLogger(__name__)


@dataclass
class SmallPlatform:
    """The platform's tables and the ledger in one database, the usage store, and the Stripe account."""

    url: str
    source: Any
    double: StripeDouble
    store_path: Path
    tries: int = 3
    policy: Policy = USUAL_POLICY
    rules: SourceRules = SourceRules()  # noqa: RUF009 - it is frozen

    def ledger(self) -> Ledger:
        return Ledger(self._url)

    @property
    def store(self) -> UsageStore:
        return UsageStore(self.store_path)

    def calls(self, month: Month, *rows: tuple[str, Any], day: int = 15) -> None:
        """Insert calls as (user, cents) at noon of a day."""
        moment = month.start.replace(day=day, hour=12)
        self.source.calls([(user, cost, moment) for user, cost in rows])

    def accounts(self, *users: str, **columns: Any) -> None:
        """Give users an account, and a customer `cus_<user>` at Stripe."""
        for user in users:
            self.source.accounts([{"user_id": user, "stripe_customer_id": f"cus_{user}", **columns}])
            self.double.add_customer(f"cus_{user}")

    def sql(self, *statements: str) -> None:
        """Change the ledger behind its back."""
        self.source.execute(*statements)

    def draft(self, month: Month, *, run_id: str = "run-draft", freeze: bool = True) -> bool:
        """Freeze the month unless it is pinned, and bring its drafts up to date.

        Without `freeze` a first month may be one that another test froze from the same tables.
        """
        source = open_usage_source(self._url, self.rules)
        with self.ledger() as ledger:
            start_over(ledger, month, Actor("tester", run_id), _LOG.info)
            frozen = pinned_version(ledger, self.store, month)
            if frozen is None:
                earlier, _ = earlier_versions(ledger, self.store, month)
                if not freeze and not earlier and self._url.sqlite_path is not None:
                    frozen = freeze_once(source, self.store_path, month, self._url.sqlite_path, self.rules)
                else:
                    frozen = self.store.freeze(source, month, late_for=earlier)
                    aggregate(frozen)
            with ledger.session(month, Actor("tester", run_id), drafting=True) as session:
                if session.has_begun():
                    hold_changed_accounts(session, source.accounts)
                frozen, _ = with_what_came_since(ledger, session, self.store, source, frozen)
                return draft_month(session, source, frozen, policy=self.policy)

    def bill(
        self, month: Month, *, verify: bool = False, run_id: str = "run-1", freeze: bool = True
    ) -> Outcome:
        """Do what the job does, from the freeze to the finalized invoices; for `freeze` see `draft`."""
        self.draft(month, run_id=run_id, freeze=freeze)
        return self.send(month, verify=verify, run_id=run_id)

    def send(self, month: Month, *, verify: bool = False, run_id: str = "run-1") -> Outcome:
        """Send the drafts as they are, as when `stripe_invoices` is launched alone."""
        if isinstance(self.double, StripeDouble):
            # By Stripe's clock, too, the month is over.
            self.double.shift_clock(max(0, int(month.end.timestamp()) - self.double.state.unix()))
        with self.ledger() as ledger, ledger.session(month, Actor("tester", run_id)) as session:
            require_drafts_equal_usage(session, self.store)
            require_sound_bills(session)
            frozen = version_to_draft(ledger, self.store, month)
            report = BillingReport(_LOG, to_drive=0)

            async def run() -> Outcome:
                async with self.gateway() as gateway:
                    return await bill_month(
                        session, gateway, report, verify=verify, recorded=lambda: recorded_late_usage(frozen)
                    )

            outcome = asyncio.run(run())
            if next(ledger.bills(month, UNDONE), None) is None:
                session.finish_billing()
        assert self.double.violations == []
        return outcome

    def reconcile(self, month: Month) -> Reconciliation:
        with self.ledger() as ledger:

            async def ask() -> Reconciliation:
                async with self.gateway() as gateway:
                    return await reconcile_month(ledger, self.store, gateway, month, Actor("checker"))

            return asyncio.run(ask())

    def findings(self, month: Month) -> list[tuple[str, str]]:
        """Reconcile; give each finding's user and kind, in order. Every one has a remedy."""
        found = self.reconcile(month).findings
        assert all(each.remedy for each in found)
        return sorted((each.user_id, each.kind.value) for each in found)

    def must_agree(self, month: Month) -> Reconciliation:
        """Reconcile, and accept nothing but agreement to the cent, and a journal that balances."""
        result = self.reconcile(month)
        assert result.findings == [], result.findings
        assert result.ledger_cents == result.stripe_cents
        assert self.imbalances(month) == []
        return result

    def imbalances(self, month: Month) -> list[str]:
        with self.ledger() as ledger, ledger.reading() as connection:
            return list(imbalances(connection, month, read_journal(connection, month)))

    def void(self, month: Month, user: str, why: str = "wrong price", *, for_good: bool = False) -> Bill:
        with self.ledger() as ledger, ledger.session(month, Actor("support")) as session:

            async def run() -> Bill:
                async with self.gateway() as gateway:
                    return await void_bill(session, gateway, user, why, for_good=for_good)

            return asyncio.run(run())

    def credit(
        self, month: Month, user: str, cents: int | None, why: str = "agreed", *, to_balance: bool = False
    ) -> CreditNote:
        with self.ledger() as ledger:

            async def run() -> CreditNote:
                async with self.gateway() as gateway:
                    with ledger.session(month, Actor("support")) as session:
                        note, _ = await credit_bill(
                            session, gateway, user, cents, why, ledger=ledger, to_balance=to_balance
                        )
                    await read_again(ledger, gateway, note.stripe_invoice_id)
                    return note

            return asyncio.run(run())

    def settle(self, month: Month, user: str, how: str = "written-off", why: str = "agreed by phone") -> Bill:
        with self.ledger() as ledger, ledger.session(month, Actor("support")) as session:
            return asyncio.run(settle_bill(session, self.gateway, user, SettledAs(how), why))

    def explain(self, month: Month, user: str) -> dict[str, Any]:
        with self.ledger() as ledger:
            return explain(ledger, self.store, month, user)

    def status(self, month: Month) -> str:
        with self.ledger() as ledger:
            return month_status(ledger, month, NOW).state

    def generations(self, month: Month, user: str) -> list[Bill]:
        with self.ledger() as ledger:
            return ledger.bills_of_user(month, user)

    def bill_of(self, month: Month, user: str) -> Bill:
        return self.generations(month, user)[-1]

    def trail(self, month: Month, user: str | None = None) -> list[dict[str, Any]]:
        with self.ledger() as ledger:
            return ledger.audit_trail(month, user)

    def standing(self) -> list[Invoice]:
        """Give the finalized invoices that are not void, oldest first."""
        return [each for each in self.double.invoices() if each.status not in {"draft", "void"}]

    def lines(self, month: Month, user: str) -> list[tuple[str, int]]:
        """Give the kind and amount of each line of the user's latest bill."""
        return [(line.kind, line.amount_cents) for line in self.bill_of(month, user).parsed_lines]

    def lose_the_ledger(self) -> None:
        """Empty the ledger, as when a new database is pointed at the same Stripe account."""
        tables = ("ledger_invoices", "ledger_months")
        self.sql(*(f"DELETE FROM {table}" for table in tables))

    def person(
        self,
        method: str,
        path: str,
        parameters: dict[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> dict[str, Any]:
        """Do at Stripe what a person does in its dashboard."""
        connection = http.client.HTTPConnection(urlsplit(self.double.base_url).netloc, timeout=20)
        try:
            headers = {
                "Authorization": "Bearer sk_test_person",
                "Content-Type": "application/x-www-form-urlencoded",
            }
            if idempotency_key is not None:
                headers["Idempotency-Key"] = idempotency_key
            connection.request(method, path, urlencode(parameters or {}), headers)
            answer = connection.getresponse()
            body: dict[str, Any] = json.loads(answer.read())
        finally:
            connection.close()
        assert answer.status == 200, body
        return body

    def person_voids(self, invoice_id: str | None) -> None:
        self.person("POST", f"/v1/invoices/{invoice_id}/void")

    def person_bills(
        self,
        customer: str,
        cents: int,
        *,
        like: Invoice | None = None,
        finalize: bool = True,
        **metadata: str,
    ) -> str:
        """Make an invoice by hand that carries our metadata, as a copy in the dashboard does; give its id."""
        fields = {**(like.metadata if like else {}), **metadata}
        created = self.person(
            "POST",
            "/v1/invoices",
            {
                "customer": customer,
                "currency": "usd",
                "pending_invoice_items_behavior": "exclude",
                "auto_advance": "false",
                **{f"metadata[{name}]": value for name, value in fields.items()},
            },
        )
        invoice_id = str(created["id"])
        words = like.lines[0].description if like else "by hand"
        line = {"lines[0][amount]": cents, "lines[0][description]": words}
        self.person("POST", f"/v1/invoices/{invoice_id}/add_lines", line)
        if finalize:
            self.person("POST", f"/v1/invoices/{invoice_id}/finalize", {"auto_advance": "false"})
        return invoice_id

    @asynccontextmanager
    async def gateway(self) -> AsyncIterator[Gateway]:
        quick = Patience(tries=self.tries, first_pause_seconds=0.001, longest_pause_seconds=0.01)
        async with StripeApi(SecretStr(KEY), self.double.base_url, timeout_seconds=10) as api:
            yield Gateway(api, Pace(LOOPBACK), quick)

    @property
    def _url(self) -> DatabaseUrl:
        return parse_database_url(self.url, setting="DATABASE_URL")


def bill_march(platform: SmallPlatform) -> SmallPlatform:
    """Bill March for two users with an invoice, and one whose usage is free."""
    platform.accounts("user-0001", "user-0002", "user-0003")
    platform.calls(MARCH, ("user-0001", 1000), ("user-0001", 234), ("user-0002", 500), ("user-0003", 0))
    platform.bill(MARCH, freeze=False)
    return platform
