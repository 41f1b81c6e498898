"""Whatever happens, in any order: runs, crashes, faults, expiry, lost and restored ledgers, and people."""

from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from spell_billing.core.drafting import Draft
from spell_billing.core.errors import StripeAccountError
from spell_billing.core.outcomes import Reason, State
from spell_billing.stripe_double import FaultKind, Invoice
from spell_billing_tests.exactly_once.billing import OCTOBER
from spell_billing_tests.exactly_once.invariants import check_stripe
from spell_billing_tests.exactly_once.ledgers import Image, image_of, put_back
from spell_billing_tests.exactly_once.small_month import WRITES, ask_stripe, drafts
from spell_billing_tests.exactly_once.world import World

DAY_SECONDS = 24 * 3600
SHORT_SECONDS = 0.25
MOST_COMMITS = 16
KINDS = st.sampled_from([kind for kind in FaultKind if kind not in {FaultKind.NONE, FaultKind.SLOW}])
WRITE = st.integers(1, WRITES)


class AnySequence(RuleBasedStateMachine):
    """One month, from its drafts to its end, by a way that hypothesis chooses."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        world.drafts = drafts()
        world.start_over()
        self.backup: tuple[Image, Sequence[Draft]] = (world.drafted, world.drafts)

    @rule(kind=KINDS, write=WRITE, times=st.integers(1, 8))
    def run_with_faults(self, kind: FaultKind, write: int, times: int) -> None:
        for number in range(times):
            self.world.double.arm(kind, nth=write + number)
        self._run()

    @rule(seed=st.integers(0, 999))
    def run_in_a_storm(self, seed: int) -> None:
        for index, kind in enumerate(["lost_after", "error_500_before", "error_500_after", "truncated"]):
            self.world.double.arm(kind, probability=0.1, seed=seed + index)
        self._run()

    @rule(write=WRITE, after=st.booleans())
    def run_killed_at_a_write(self, write: int, *, after: bool) -> None:
        self.world.bill_killed_at_write(write, after_effect=after)

    @rule(commit=st.integers(1, MOST_COMMITS), after=st.booleans())
    def run_killed_at_a_commit(self, commit: int, *, after: bool) -> None:
        self.world.bill_killed_at_commit(commit, after_commit=after)

    @rule()
    def run_to_the_end(self) -> None:
        self.world.one_more_run_must_finish(parked=self._to_be_parked())

    @rule()
    def keys_expire(self) -> None:
        self.world.double.expire_all_keys()

    @rule(days=st.integers(1, 40))
    def time_passes(self, days: int) -> None:
        self.world.double.shift_clock(days * DAY_SECONDS)

    @rule()
    def ledger_is_backed_up(self) -> None:
        self.backup = (image_of(self.world.database_url), self.world.drafts)

    @rule()
    def ledger_is_restored(self) -> None:
        image, self.world.drafts = self.backup
        put_back(self.world.database_url, image)

    @rule(more_cents=st.sampled_from([0, 0, 7, 250]))
    def ledger_is_lost_and_drafted_anew(self, more_cents: int) -> None:
        self.world.lose_the_ledger(drafts(more_cents=more_cents))

    # No preconditions: what stands after a kill depends on the moment, and hypothesis replays its choices.
    @rule(which=st.integers(0, 9))
    def person_voids_an_invoice(self, which: int) -> None:
        standing = self._with_status("open")
        if standing:
            invoice = standing[which % len(standing)]
            ask_stripe(self.world.double, "POST", f"/v1/invoices/{invoice.id}/void")

    @rule(which=st.integers(0, 9))
    def person_deletes_a_draft(self, which: int) -> None:
        left = self._with_status("draft")
        if left:
            ask_stripe(self.world.double, "DELETE", f"/v1/invoices/{left[which % len(left)].id}")

    @invariant()
    def nobody_is_billed_twice(self) -> None:
        for user_id, invoice in check_stripe(self.world.double).items():
            assert sum(line.amount_cents for line in invoice.lines) == invoice.total_cents
            named = f"${invoice.total_cents / 100:.2f})"
            assert str(invoice.description).endswith(named), f"{user_id} was billed something else: {invoice}"

    def teardown(self) -> None:
        self.run_to_the_end()

    def _run(self) -> None:
        try:
            self.world.bill(timeout_seconds=SHORT_SECONDS)
        except StripeAccountError:
            pass
        finally:
            self.world.double.disarm()

    def _with_status(self, status: str) -> list[Invoice]:
        self.world.wait_for_stripe()
        return [invoice for invoice in self.world.double.invoices() if invoice.status == status]

    def _to_be_parked(self) -> set[str]:
        """Say whom the next run must leave alone, from what the ledger and Stripe hold now."""
        parked = set()
        with self.world.ledger() as ledger:
            bills = list(ledger.bills(OCTOBER))
        for bill in bills:
            invoices = [each for each in self.world.double.invoices() if _is_of(each, bill.user_id)]
            statuses = {invoice.status for invoice in invoices}
            usable = [
                invoice
                for invoice in invoices
                if invoice.status == "draft" and invoice.metadata["spell_lines_hash"] == bill.lines_hash
            ]
            gone = bill.state is State.DRAFTED and not usable
            if statuses & {"open", "paid", "uncollectible"}:
                continue
            if bill.state is State.PARKED or "void" in statuses or gone:
                parked.add(bill.user_id)
                assert bill.reason is not Reason.TWO_INVOICES
        return parked


def _is_of(invoice: Invoice, user_id: str) -> bool:
    return invoice.metadata.get("spell_user_id") == user_id


def test_in_any_sequence_of_events_each_user_is_billed_once(sqlite_world: World) -> None:
    class InThisWorld(AnySequence):
        def __init__(self) -> None:
            super().__init__(sqlite_world)

    run_state_machine_as_test(InThisWorld, settings=settings(max_examples=30, stateful_step_count=12))
