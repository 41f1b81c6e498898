"""Many users of one Stripe customer: billed one after the other, and nobody else waits for them."""

import asyncio
import gc
import itertools
from collections.abc import Iterator
from decimal import Decimal

import pytest

from spell_billing.core.drafting import Account, Draft, draft_invoice
from spell_billing.core.outcomes import State
from spell_billing.invoicing.bill_month import PAGE_ROWS, Driving, bill_month
from spell_billing.invoicing.commits import GroupCommit
from spell_billing.invoicing.drive import Drive
from spell_billing.invoicing.report import BillingReport, Outcome
from spell_billing.ledger.rows import Bill
from spell_billing.stripe_double import StripeDouble
from spell_billing_tests.exactly_once import billing
from spell_billing_tests.exactly_once.billing import OCTOBER, Run, bill, opened
from spell_billing_tests.exactly_once.small_month import write_drafts

ORGANISATION = "cus_organisation"
MEMBERS, OTHERS = 60, 40


def draft_of(user_id: str, customer: str) -> Draft:
    account = Account(stripe_customer_id=customer)
    return draft_invoice(OCTOBER, user_id, calls=1, usage_cents=Decimal(1234), account=account)


def an_organisation(members: int, others: int) -> list[Draft]:
    """Give drafts of an organisation's users and of others, in turn while there are both."""
    ours = [draft_of(f"member-{number:04}", ORGANISATION) for number in range(members)]
    single = [draft_of(f"single-{number:04}", f"cus_{number}") for number in range(others)]
    pairs = itertools.zip_longest(ours, single)
    return [each for pair in pairs for each in pair if each is not None]


@pytest.fixture
def slow_double() -> Iterator[StripeDouble]:
    with StripeDouble(latency_seconds=0.01, auto_create_customers=True).running() as double:
        yield double


@pytest.fixture
def run(database_url: str, slow_double: StripeDouble) -> Run:
    write_drafts(database_url, an_organisation(MEMBERS, OTHERS))
    return Run(database_url, slow_double.base_url)


def finalized_users(double: StripeDouble) -> list[str]:
    """Give the users in the order in which their invoices were finalized."""
    events = (each for each in double.events() if each.type == "invoice.finalized")
    return [each.snapshot.metadata["spell_user_id"] for each in events]  # type: ignore[union-attr]


def test_bills_of_one_customer_never_meet_and_the_others_do_not_wait_for_them(
    run: Run, slow_double: StripeDouble
) -> None:
    outcome = bill(run)

    assert (outcome.invoiced, outcome.limited, outcome.unfinished) == (MEMBERS + OTHERS, 0, {})
    assert len(slow_double.writes) == 3 * (MEMBERS + OTHERS)
    users = finalized_users(slow_double)
    members = [each for each in users if each.startswith("member")]
    assert members == sorted(members)
    last_single = max(index for index, each in enumerate(users) if each.startswith("single"))
    assert sum(each.startswith("member") for each in users[:last_single]) < MEMBERS / 2


def test_a_run_that_is_to_send_the_first_bills_only_sends_those(run: Run, slow_double: StripeDouble) -> None:
    with opened(run) as (ledger, session):

        async def send() -> Outcome:
            async with billing.gateway(run) as gateway:
                return await bill_month(session, gateway, BillingReport(billing.LOG, to_drive=0), first=31)

        assert asyncio.run(send()).invoiced == 31
        invoiced = [each for each in ledger.bills(OCTOBER) if each.state is State.FINALIZED]
        assert [each.id for each in invoiced] == [each.id for each in ledger.bills(OCTOBER)][:31]
    assert len(finalized_users(slow_double)) == 31


def test_a_customer_with_any_number_of_bills_takes_no_more_memory(
    sqlite_url: str, slow_double: StripeDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = 6 * PAGE_ROWS
    write_drafts(sqlite_url, an_organisation(members, 1))
    driven: list[str] = []
    most_in_memory = 0

    async def note(_: Driving, drive: Drive) -> None:
        nonlocal most_in_memory
        driven.append(drive.bill.user_id)
        await asyncio.sleep(0)
        if len(driven) % 100 == 0:
            bills = sum(isinstance(each, Bill) for each in gc.get_objects())
            most_in_memory = max(most_in_memory, bills)

    monkeypatch.setattr(Driving, "drive_one", note)
    run = Run(sqlite_url, slow_double.base_url)
    with opened(run) as (_, session):

        async def drive() -> None:
            async with billing.gateway(run) as gateway, GroupCommit(session) as commits:
                report = BillingReport(billing.LOG, to_drive=0)
                driving = Driving(session, gateway, commits, report, Outcome())
                await driving.drive_all(after_id=0, most=2 * members)

        asyncio.run(drive())
    assert len(driven) == len(set(driven)) == members + 1
    assert 0 < most_in_memory <= 2 * PAGE_ROWS
