"""Where a month stands is one answer, whoever asks: status, pages, metrics, and what runs by itself."""

from datetime import UTC, datetime

import pytest

from spell_billing.core.errors import StripeSilentError
from spell_billing.core.outcomes import Reason, State
from spell_billing.ledger.figures import read_figures
from spell_billing.ledger.ledger import Ledger
from spell_billing.reporting.status import month_status
from spell_billing.web.month_figures import figures_of
from spell_billing_tests.proof.small_platform import APRIL, MARCH, SmallPlatform

AFTER = datetime(2025, 4, 20, tzinfo=UTC)
ONE = "user-0001"
WITH_REASON = {
    State.SKIPPED: Reason.NO_CHARGE,
    State.HELD: Reason.NOT_PLAUSIBLE,
    State.FAILED: Reason.NO_BILLING_ACCOUNT,
    State.PARKED: Reason.VOIDED_AT_STRIPE,
    State.SETTLED: Reason.WRITTEN_OFF,
}
CASES = [
    *((state, WITH_REASON.get(state)) for state in State if state is not State.VOID),
    (State.VOID, Reason.VOIDED),
    (State.VOID, Reason.WRITTEN_OFF),
]
KEEPS_IT_OPEN = {State.PLANNED, State.DRAFTED, State.FAILED, State.HELD, State.PARKED}


def answers(ledger: Ledger) -> set[str]:
    """Ask everyone who says where March stands."""
    with ledger.reading() as connection:
        figures = read_figures(connection, first=MARCH, latest_months=12, now=AFTER)
    metrics = "billed" if figures.last_billed and figures.last_billed[0] == MARCH else "partial"
    assert figures.unbilled_months == (0 if metrics == "billed" else 1)
    (overview,) = figures_of(ledger, [MARCH], AFTER)
    return {
        metrics,
        overview.state,
        month_status(ledger, MARCH, AFTER).state,
        ledger.standing(MARCH).state(AFTER),
    }


@pytest.mark.both_databases
@pytest.mark.parametrize(("state", "reason"), CASES, ids=[f"{state}-{reason}" for state, reason in CASES])
def test_everyone_gives_the_same_answer_for_a_bill_in_each_state(
    billed: SmallPlatform, state: State, reason: Reason | None
) -> None:
    why = f"'{reason.value}'" if reason else "NULL"
    billed.sql(f"UPDATE ledger_invoices SET state = '{state.value}', reason = {why} WHERE user_id = '{ONE}'")
    expected = "partial" if state in KEEPS_IT_OPEN or reason is Reason.VOIDED else "billed"
    with billed.ledger() as ledger:
        assert answers(ledger) == {expected}


def test_a_voided_bill_that_a_later_generation_replaced_keeps_nothing_open(billed: SmallPlatform) -> None:
    billed.void(MARCH, ONE)
    with billed.ledger() as ledger:
        assert answers(ledger) == {"partial"}
    billed.bill(MARCH)
    with billed.ledger() as ledger:
        assert answers(ledger) == {"billed"}


@pytest.mark.parametrize(
    ("findings", "state", "runs_by_itself"),
    [("[]", "unbilled", True), ('[{"text": "x"}]', "in_review", False)],
)
def test_a_month_in_review_is_in_review_everywhere_and_nothing_runs_by_itself(
    billed: SmallPlatform, findings: str, state: str, *, runs_by_itself: bool
) -> None:
    billed.calls(APRIL, (ONE, 100))
    billed.draft(APRIL)
    billed.sql(
        "DELETE FROM ledger_reviews",
        "INSERT INTO ledger_reviews (month, drafts_hash, findings, reviewed_at) "
        f"VALUES ('2025-04', 'x', '{findings}', '2025-05-01 00:00:00')",
    )
    now = datetime(2025, 5, 2, tzinfo=UTC)
    with billed.ledger() as ledger:
        (overview,) = figures_of(ledger, [APRIL], now)
        standing = ledger.standing(APRIL)
        assert {overview.state, month_status(ledger, APRIL, now).state, standing.state(now)} == {state}
        assert standing.needs_run is runs_by_itself


def test_a_failed_bill_keeps_its_reason_while_stripe_does_not_answer(light_billed: SmallPlatform) -> None:
    light_billed.sql("INSERT INTO billing_accounts (user_id, stripe_customer_id) VALUES ('new', 'cus_new')")
    light_billed.calls(APRIL, (ONE, 900), ("new", 500))
    light_billed.bill(APRIL)
    failed = light_billed.bill_of(APRIL, "new")
    assert (failed.state, failed.reason) == (State.FAILED, Reason.UNKNOWN_CUSTOMER)

    light_billed.double.arm("lost_before", operation="invoices.list", probability=1.0)
    with pytest.raises(StripeSilentError):
        light_billed.bill(APRIL)
    light_billed.double.disarm()

    tried = light_billed.bill_of(APRIL, "new")
    assert (tried.state, tried.reason, tried.message) == (State.PLANNED, failed.reason, failed.message)
    with light_billed.ledger() as ledger:
        (reason,) = month_status(ledger, APRIL, AFTER).as_json()["reasons"]
    assert (reason["reason"], reason["first_users"]) == ("unknown_customer", ["new"])
    light_billed.bill(APRIL)
    assert light_billed.bill_of(APRIL, "new").state is State.FAILED
    light_billed.double.add_customer("cus_new")
    light_billed.bill(APRIL)
    sent = light_billed.bill_of(APRIL, "new")
    assert (sent.state, sent.reason, sent.message) == (State.FINALIZED, None, None)
    light_billed.must_agree(APRIL)
