"""A month is pinned by its first invoice, not by an attempt at it: what a run leaves that makes none."""

import pytest

from spell_billing.core.outcomes import Reason, State
from spell_billing.core.terms import USUAL_POLICY
from spell_billing.ledger.nothing_made import starts_over
from spell_billing.ledger.rows import Actor
from spell_billing.reporting.preview import preview_drafts
from spell_billing.settings.databases import parse_database_url
from spell_billing.stripe_double import RequestRecord
from spell_billing.usage.source import open_usage_source
from spell_billing_tests.proof.small_platform import APRIL, MARCH, SmallPlatform

ADA, BOB, NEW = "ada", "bob", "new"


def without_customers(platform: SmallPlatform, *users: str) -> None:
    """Give users an account whose customer Stripe does not know."""
    platform.source.accounts([{"user_id": user, "stripe_customer_id": f"cus_{user}"} for user in users])


def more_comes_and_stripe_knows_all(platform: SmallPlatform) -> None:
    platform.calls(MARCH, (ADA, 30), (NEW, 70))
    for user in (ADA, BOB, NEW):
        platform.double.add_customer(f"cus_{user}")


@pytest.fixture
def refused(platform: SmallPlatform) -> SmallPlatform:
    """Bill March for two users whose customers Stripe does not know."""
    without_customers(platform, ADA, BOB, NEW)
    platform.calls(MARCH, (ADA, 500), (BOB, 600))
    assert platform.bill(MARCH).invoiced == 0
    return platform


def standing(platform: SmallPlatform) -> dict[str, int]:
    return {each.customer: each.total_cents for each in platform.standing()}


def begins_again(platform: SmallPlatform) -> bool:
    with platform.ledger() as ledger, ledger.session(MARCH, Actor("tester")) as session:
        return session.starts_over()


ALL_OF_IT = {"cus_ada": 530, "cus_bob": 600, "cus_new": 70}
AS_FIRST_FROZEN = {"cus_ada": 500, "cus_bob": 600}


@pytest.mark.both_databases
def test_a_run_that_made_nothing_shows_who_failed_and_the_next_one_starts_over(
    refused: SmallPlatform,
) -> None:
    assert refused.status(MARCH) == "partial"
    failed = [refused.bill_of(MARCH, user) for user in (ADA, BOB)]
    assert {(bill.state, bill.reason) for bill in failed} == {(State.FAILED, Reason.UNKNOWN_CUSTOMER)}
    more_comes_and_stripe_knows_all(refused)

    refused.bill(MARCH)

    assert standing(refused) == ALL_OF_IT
    assert refused.lines(MARCH, NEW) == [("usage", 70)]
    assert "billing_start_taken_back" in [entry["action"] for entry in refused.trail(MARCH)]
    refused.must_agree(MARCH)


@pytest.mark.both_databases
def test_no_charge_is_doubled_where_drafts_were_refused_for_different_reasons_and_deleted(
    platform: SmallPlatform,
) -> None:
    platform.source.plans([{"plan_id": "pro", "name": "P" * 5001, "included_cents": 100}])
    platform.accounts(ADA, plan_id="pro")
    without_customers(platform, BOB, NEW)
    platform.calls(MARCH, (ADA, 500), (BOB, 600), ("cem", 80))
    platform.bill(MARCH)
    reasons = {user: platform.bill_of(MARCH, user).reason for user in (ADA, BOB, "cem")}
    assert reasons == {
        ADA: Reason.REJECTED,
        BOB: Reason.UNKNOWN_CUSTOMER,
        "cem": Reason.NO_BILLING_ACCOUNT,
    }
    assert platform.double.invoices() == []
    platform.sql("UPDATE billing_plans SET name = 'Pro'")
    more_comes_and_stripe_knows_all(platform)

    platform.bill(MARCH)
    platform.bill(MARCH)

    assert standing(platform) == {"cus_ada": 430, "cus_bob": 600, "cus_new": 70}
    assert platform.findings(MARCH) == [("cem", "not_invoiced")]


def test_one_invoice_pins_the_month_although_the_first_bill_failed(light_platform: SmallPlatform) -> None:
    without_customers(light_platform, ADA, NEW)
    light_platform.accounts(BOB)
    light_platform.calls(MARCH, (ADA, 500), (BOB, 600))
    assert light_platform.bill(MARCH).invoiced == 1
    assert not begins_again(light_platform)
    more_comes_and_stripe_knows_all(light_platform)
    light_platform.bill(MARCH)
    assert standing(light_platform) == {"cus_ada": 530, "cus_bob": 600}


def test_a_create_without_an_answer_holds_the_pin_until_stripe_has_said_what_stands(
    light_platform: SmallPlatform,
) -> None:
    without_customers(light_platform, ADA, BOB, NEW)
    light_platform.calls(MARCH, (ADA, 500), (BOB, 600))
    light_platform.double.arm("lost_before", operation="invoices.create", probability=1.0)
    light_platform.bill(MARCH)
    light_platform.double.disarm()
    assert not begins_again(light_platform)

    # Stripe lists nothing of the month, and refuses each of its bills.
    light_platform.bill(MARCH)

    assert begins_again(light_platform)
    more_comes_and_stripe_knows_all(light_platform)
    light_platform.bill(MARCH)
    assert standing(light_platform) == ALL_OF_IT


def test_an_answer_that_was_lost_once_holds_the_pin_although_the_next_one_refused(
    light_platform: SmallPlatform,
) -> None:
    without_customers(light_platform, ADA)
    light_platform.calls(MARCH, (ADA, 500))
    light_platform.double.arm("lost_before", operation="invoices.create")
    light_platform.bill(MARCH)
    assert light_platform.bill_of(MARCH, ADA).reason is Reason.UNKNOWN_CUSTOMER
    assert not begins_again(light_platform)


@pytest.mark.both_databases
def test_a_run_that_is_killed_at_its_first_invoice_leaves_the_month_pinned(refused: SmallPlatform) -> None:
    more_comes_and_stripe_knows_all(refused)
    # As when `invoice_drafts` was launched alone.
    refused.sql("UPDATE ledger_invoices SET state = 'planned', reason = NULL, message = NULL")
    assert begins_again(refused)
    seen: list[bool] = []

    def look(_: RequestRecord) -> None:
        with refused.ledger() as ledger:
            seen.append(ledger.read(starts_over, MARCH))

    refused.double.arm("none", operation="invoices.create", before_effect=look)
    refused.send(MARCH)

    assert seen == [False]
    refused.bill(MARCH)
    assert standing(refused) == AS_FIRST_FROZEN


@pytest.mark.both_databases
def test_a_bill_that_a_person_settled_is_not_drafted_anew(refused: SmallPlatform) -> None:
    refused.settle(MARCH, BOB, "billed-by-hand")
    more_comes_and_stripe_knows_all(refused)
    refused.bill(MARCH)
    assert standing(refused) == {"cus_ada": 530}
    assert refused.bill_of(MARCH, BOB).state is State.SETTLED


def test_a_month_that_another_one_counts_with_stays_as_it_is(refused: SmallPlatform) -> None:
    refused.calls(APRIL, (ADA, 1))
    more_comes_and_stripe_knows_all(refused)
    refused.draft(APRIL)
    refused.bill(MARCH)
    refused.bill(APRIL)
    # April has taken the newcomer's call of March as late usage.
    assert refused.bill_of(APRIL, NEW).total_cents == 70
    assert sum(each.total_cents for each in refused.standing()) == 500 + 30 + 600 + 70 + 1


def test_an_invoice_of_the_month_that_was_voided_at_stripe_holds_the_pin(
    light_platform: SmallPlatform,
) -> None:
    light_platform.accounts(ADA, BOB)
    light_platform.calls(MARCH, (ADA, 500))
    light_platform.bill(MARCH)
    light_platform.person_voids(light_platform.bill_of(MARCH, ADA).stripe_invoice_id)
    light_platform.lose_the_ledger()
    light_platform.bill(MARCH)
    assert light_platform.bill_of(MARCH, ADA).state is State.PARKED
    assert not begins_again(light_platform)


def test_a_month_in_which_nothing_is_due_is_billed_and_stays_so(light_platform: SmallPlatform) -> None:
    light_platform.accounts(ADA, NEW)
    light_platform.calls(MARCH, (ADA, 0))
    light_platform.bill(MARCH)
    assert light_platform.status(MARCH) == "billed"
    light_platform.calls(MARCH, (NEW, 70))
    light_platform.calls(APRIL, (NEW, 1))
    assert light_platform.bill(MARCH).sent_nothing
    light_platform.bill(APRIL)
    assert light_platform.lines(APRIL, NEW) == [("usage", 1), ("late_usage", 70)]


def test_a_preview_shows_what_the_run_that_starts_over_bills(refused: SmallPlatform) -> None:
    more_comes_and_stripe_knows_all(refused)
    with refused.ledger() as ledger:
        source = open_usage_source(parse_database_url(refused.url, setting="DATABASE_URL"))
        drafts = list(preview_drafts(MARCH, ledger, source, refused.store, USUAL_POLICY))
    refused.bill(MARCH)
    assert {f"cus_{each.user_id}": each.total_cents for each in drafts} == standing(refused) == ALL_OF_IT
