"""The protocol's steps, each seen from Stripe's side at the moment that it matters."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import pytest
from msgspec import structs

from spell_billing.core.drafting import Account, draft_invoice
from spell_billing.core.errors import StripeAccountError
from spell_billing.core.outcomes import Reason, State
from spell_billing.ledger.rows import Change, content_of
from spell_billing.stripe_double import RequestRecord
from spell_billing_tests.exactly_once.billing import OCTOBER, opened
from spell_billing_tests.exactly_once.invariants import check_finished, check_stripe
from spell_billing_tests.exactly_once.small_month import (
    BILLABLE,
    PLAIN,
    PLAN,
    WRITES,
    ask_stripe,
    drafts,
    write_drafts,
)
from spell_billing_tests.exactly_once.world import World


def invoice_in_path(record: RequestRecord) -> str:
    return record.path.split("/")[3]


def test_a_finished_month_sends_nothing_at_all(world: World) -> None:
    world.lose_the_ledger(drafts(everyone_billable=True))
    world.one_more_run_must_finish()
    before = len(world.double.requests)
    assert world.bill().sent_nothing
    assert len(world.double.requests) == before


def test_a_month_that_is_not_over_by_stripe_s_clock_is_not_billed(world: World) -> None:
    two_days = 2 * 24 * 3600
    world.double.shift_clock(-two_days)

    with pytest.raises(
        StripeAccountError, match=r"2026-10 is not over: Stripe's clock says 2026-10-30 .* ahead"
    ):
        world.bill()

    assert not [record for record in world.double.requests if record.operation == "invoices.create"]
    with world.ledger() as ledger:
        record = ledger.month(OCTOBER)
    assert record is not None
    assert record.billing_started_at is None
    world.double.shift_clock(two_days)
    world.one_more_run_must_finish()


def test_an_invoices_id_is_durable_before_anything_is_done_with_it(sqlite_world: World) -> None:
    world = sqlite_world
    known: list[bool] = []

    def look(record: RequestRecord) -> None:
        with closing(sqlite3.connect(world.database_url.removeprefix("sqlite:///"))) as connection:
            rows = connection.execute("SELECT stripe_invoice_id FROM ledger_invoices WHERE state = 'drafted'")
            known.append(invoice_in_path(record) in {row[0] for row in rows})

    for operation in ("invoices.add_lines", "invoices.finalize"):
        for nth in (1, 2, 3):
            world.double.arm("none", operation=operation, nth=nth, before_effect=look)
    world.bill()
    assert known == [True] * 6


def slip_in_a_line(world: World) -> Callable[[RequestRecord], None]:
    """Give a callback that puts a line onto the draft which is about to get its own."""

    def slip_in(record: RequestRecord) -> None:
        account = world.double.state
        draft = account.invoices.get(invoice_in_path(record))
        item = next(iter(account.items)).line
        account.put_invoice(replace(draft, lines=(item,), total_cents=item.amount_cents))

    return slip_in


def test_a_draft_that_shows_something_else_is_never_finalized(world: World) -> None:
    for nth in (1, 2, 3):
        with world.point(f"invoice {nth}"):
            world.start_over()
            world.double.arm(
                "none", operation="invoices.add_lines", nth=nth, before_effect=slip_in_a_line(world)
            )
            world.bill()
            world.must_be_finished()


def test_a_draft_that_shows_something_else_again_and_again_is_a_named_failure(world: World) -> None:
    world.double.arm(
        "none", operation="invoices.add_lines", probability=1.0, before_effect=slip_in_a_line(world)
    )
    assert world.bill().invoiced == 0
    assert check_stripe(world.double) == {}
    assert [invoice for invoice in world.double.invoices() if invoice.status == "draft"] == []
    assert {world.bill_of(user_id).reason for user_id in BILLABLE} == {Reason.LINES_DIFFER}


@pytest.fixture
def refused_world(sqlite_world: World) -> World:
    """Give a month in which Stripe refuses one user's lines: a plan's name is longer than it takes."""
    plan = Account("cus_plan", plan_id="pro", plan_name="P" * 5001, included_cents=500)
    refused = draft_invoice(OCTOBER, PLAN, calls=3, usage_cents=drafts()[1].usage_cents, account=plan)
    sqlite_world.drafts = [refused if draft.user_id == PLAN else draft for draft in drafts()]
    sqlite_world.lose_the_ledger(sqlite_world.drafts)
    return sqlite_world


def must_be_failed(world: World) -> None:
    """Check that the refused user is failed and everything else in order."""
    bill = world.bill_of(PLAN)
    assert (bill.state, bill.reason) == (State.FAILED, Reason.REJECTED)
    world.drafts = [
        structs.replace(draft, state=State.FAILED, reason=Reason.REJECTED) if draft.user_id == PLAN else draft
        for draft in world.drafts
    ]
    with world.ledger() as ledger:
        check_finished(world.double, ledger, world.drafts)
    world.must_be_finished()


@pytest.mark.parametrize("kind", ["lost_before", "lost_after", "error_500_unstored"])
def test_a_refused_user_stops_nobody_even_when_the_draft_cannot_be_deleted(
    refused_world: World, kind: str
) -> None:
    refused_world.double.arm(kind, operation="invoices.delete", probability=1.0)
    outcome = refused_world.bill()
    refused_world.double.disarm()
    assert outcome.invoiced == 2
    refused_world.bill()
    must_be_failed(refused_world)


@pytest.mark.parametrize("after_effect", [False, True], ids=["before", "after"])
def test_a_refused_users_draft_is_gone_wherever_the_run_was_killed(
    refused_world: World, *, after_effect: bool
) -> None:
    month = refused_world.drafts
    for number in range(1, WRITES + 1):
        with refused_world.point(f"write {number}"):
            refused_world.set_stripe_up()
            refused_world.lose_the_ledger(month)
            refused_world.bill_killed_at_write(number, after_effect=after_effect)
            refused_world.bill()
            must_be_failed(refused_world)


def test_a_refused_users_draft_is_gone_at_whichever_commit_the_run_was_killed(refused_world: World) -> None:
    month, number = refused_world.drafts, 1
    while True:
        with refused_world.point(f"commit {number}"):
            refused_world.set_stripe_up()
            refused_world.lose_the_ledger(month)
            if not refused_world.bill_killed_at_commit(number, after_commit=True):
                break
            refused_world.bill()
            must_be_failed(refused_world)
        number += 1


def bill_by_hand(world: World, user_id: str) -> str:
    """Make and finalize an invoice that claims to be a user's bill."""
    metadata = {
        "spell_billing_key": f"spell:2026-10:{user_id}:g1",
        "spell_month": "2026-10",
        "spell_user_id": user_id,
        "spell_generation": "1",
    }
    body = {"customer": "cus_plain", **{f"metadata[{name}]": value for name, value in metadata.items()}}
    invoice_id = str(ask_stripe(world.double, "POST", "/v1/invoices", body)["id"])
    line = {"lines[0][amount]": 500, "lines[0][description]": "by hand"}
    ask_stripe(world.double, "POST", f"/v1/invoices/{invoice_id}/add_lines", line)
    ask_stripe(world.double, "POST", f"/v1/invoices/{invoice_id}/finalize")
    return invoice_id


def test_two_invoices_of_a_user_the_ledger_does_not_know_stop_nobody(world: World) -> None:
    two = {bill_by_hand(world, "user-0099") for _ in range(2)}
    assert world.bill().invoiced == 3
    bill = world.bill_of("user-0099")
    assert (bill.state, bill.reason) == (State.PARKED, Reason.TWO_INVOICES)
    assert bill.stripe_invoice_id in two


def test_a_draft_nobody_uses_is_deleted_although_no_bill_is_left_to_drive(world: World) -> None:
    world.bill()
    body = {"customer": "cus_plain", "metadata[spell_month]": "2026-10", "metadata[spell_user_id]": PLAIN}
    left = ask_stripe(
        world.double,
        "POST",
        "/v1/invoices",
        {**body, "metadata[spell_billing_key]": f"spell:2026-10:{PLAIN}:g1"},
    )
    world.bill()
    assert left["id"] not in {invoice.id for invoice in world.double.invoices()}
    world.must_be_finished()


@pytest.mark.parametrize("mended_at", ["stripe", "billing_accounts"])
def test_a_bill_that_failed_and_was_mended_is_billed_by_the_next_run(world: World, mended_at: str) -> None:
    wrong = [
        structs.replace(draft, account=Account("cus_nobody")) if draft.account else draft
        for draft in drafts()
    ]
    world.lose_the_ledger(wrong)
    world.bill()
    assert {world.bill_of(user_id).reason for user_id in BILLABLE} == {Reason.UNKNOWN_CUSTOMER}
    if mended_at == "stripe":
        world.double.add_customer("cus_nobody")
    else:
        world.drafts = drafts()
    draft_the_failed_again(world)
    # The refused requests have used their keys: Stripe would replay its refusal, or refuse other content.
    world.one_more_run_must_finish()


def draft_the_failed_again(world: World) -> None:
    """Draft failed bills again, as materializing `invoice_drafts` does."""
    by_user = {draft.user_id: draft for draft in world.drafts}
    with opened(world.run()) as (_, session):
        session.apply(
            [
                Change(bill, replace(bill, **content_of(by_user[bill.user_id])), "redrafted")
                for bill in session.bills_to_redraft()
                if bill.user_id in BILLABLE
            ]
        )


def test_on_a_later_key_nothing_is_finalized_while_another_draft_of_the_bill_stands(world: World) -> None:
    def another_ledger_makes_a_draft_too(record: RequestRecord) -> None:
        if str(record.idempotency_key).endswith(":create:a2"):
            account = world.double.state
            newest = list(account.invoices)[-1]
            account.put_invoice(replace(newest, id=account.new_id("in")))

    create = "invoices.create"
    world.double.arm("error_500_before", operation=create, nth=1)
    world.double.arm("none", operation=create, probability=1.0, after_effect=another_ledger_makes_a_draft_too)
    outcome = world.bill()
    world.double.disarm()
    assert len(outcome.unfinished) == 1
    assert check_stripe(world.double).keys().isdisjoint(outcome.unfinished)
    world.one_more_run_must_finish()


def test_of_two_drafts_of_a_bill_every_ledger_keeps_the_older(world: World) -> None:
    world.double.arm("lost_before", operation="invoices.add_lines", probability=1.0)
    world.bill()
    world.double.disarm()
    account = world.double.state
    own = account.invoices.get(str(world.bill_of(PLAIN).stripe_invoice_id))
    older = replace(own, id=account.new_id("in"), created=own.created - 60)
    account.put_invoice(older)
    world.one_more_run_must_finish()
    assert world.bill_of(PLAIN).stripe_invoice_id == older.id


def test_a_ledger_lost_twice_with_other_usage_each_time_still_bills(world: World) -> None:
    for more_cents in (10, 20, 30):
        world.bill_killed_at_write(2, after_effect=True)
        world.lose_the_ledger(drafts(more_cents=more_cents))
    world.one_more_run_must_finish()


def test_drafting_again_writes_over_nothing_that_was_billed(world: World) -> None:
    world.bill_killed_at_write(4, after_effect=True)
    with pytest.raises(Exception, match="its drafts are frozen"):
        write_drafts(world.database_url, drafts(more_cents=5))
    world.one_more_run_must_finish()
