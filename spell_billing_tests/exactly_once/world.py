"""One small month between a ledger and a Stripe account, and everything that can happen to it."""

import os
import signal
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event
from typing import Any

from spell_billing.core.drafting import Draft
from spell_billing.invoicing.report import Outcome
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Bill
from spell_billing.settings.databases import parse_database_url
from spell_billing.stripe_double import StripeDouble
from spell_billing_tests.exactly_once.billing import OCTOBER, Run, bill
from spell_billing_tests.exactly_once.children import Children
from spell_billing_tests.exactly_once.invariants import Standing, check_finished, what_stands
from spell_billing_tests.exactly_once.ledgers import Image, image_of, put_back
from spell_billing_tests.exactly_once.small_month import drafts, set_the_stage, write_drafts

KILLED = -signal.SIGKILL


@dataclass(repr=False, eq=False)
class World:
    """A drafted month in a ledger of its own, before its first run."""

    double: StripeDouble
    database_url: str
    children: Children
    survived: Callable[[], object]
    drafts: Sequence[Draft] = field(default_factory=drafts)
    notices: bool = False
    _tried_on: set[Standing] = field(default_factory=set, init=False)
    _looked_at: Ledger | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        with self.ledger():
            self._empty = image_of(self.database_url)
        write_drafts(self.database_url, self.drafts)
        self.drafted: Image = image_of(self.database_url)
        self.set_stripe_up()
        self.children.warm(self.run())
        self.start_over()

    def set_stripe_up(self) -> None:
        """Begin with an account in which nothing was billed."""
        self.double.reset()
        set_the_stage(self.double)

    def start_over(self) -> None:
        """Begin again: the drafted ledger, and an account in which nothing was billed."""
        put_back(self.database_url, self.drafted)
        self.set_stripe_up()

    def lose_the_ledger(self, anew: Sequence[Draft] | None = None) -> None:
        """Empty the ledger and draft the month anew, with the same content if no other is given."""
        put_back(self.database_url, self._empty)
        self.drafts = self.drafts if anew is None else anew
        write_drafts(self.database_url, self.drafts)

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """Open the ledger to look at it. On PostgreSQL it stays open: connecting takes as long as looking."""
        if self._looked_at is not None:
            yield self._looked_at
            return
        opened = Ledger(parse_database_url(self.database_url, setting="DATABASE_URL"))
        if self.database_url.startswith("postgresql"):
            self._looked_at = opened
            yield opened
        else:
            with opened:
                yield opened

    def close(self) -> None:
        """Close what was opened to look at it."""
        if self._looked_at is not None:
            self._looked_at.close()

    def bill_of(self, user_id: str) -> Bill:
        """Give a user's latest bill."""
        with self.ledger() as ledger:
            return ledger.bills_of_user(OCTOBER, user_id)[-1]

    def run(self, **wishes: Any) -> Run:
        """Describe a run on this ledger and account; see `Run` for the wishes."""
        return Run(self.database_url, self.double.base_url, **{"notices": self.notices, **wishes})

    def bill(self, **wishes: Any) -> Outcome:
        """Bill the month in this process."""
        return bill(self.run(**wishes))

    def bill_in_child(self, **wishes: Any) -> dict[str, Any]:
        """Bill the month in a process of its own, and wait for its end."""
        return self.children.wait(self.children.start(self.run(**wishes)))

    def bill_killed_at_write(self, number: int, *, after_effect: bool, **wishes: Any) -> bool:
        """Bill in a child whose process group gets SIGKILL before or after the effect of a write.

        Returns:
            False when the run had fewer writes and ended by itself.
        """
        child: list[int] = []
        started = Event()

        def kill(_record: object) -> None:
            started.wait()
            os.killpg(child[0], signal.SIGKILL)

        fault = self.double.arm(
            "lost_after" if after_effect else "lost_before",
            nth=number,
            before_effect=None if after_effect else kill,
            after_effect=kill if after_effect else None,
        )
        child.append(self.children.start(self.run(**wishes)))
        started.set()
        ended = self.children.wait(child[0])
        self.double.disarm()
        assert ended["status"] == (KILLED if fault.fired else 0), ended
        return bool(fault.fired)

    def wait_for_stripe(self) -> None:
        """Wait until Stripe has done what a killed run had sent: a person looks later than that."""
        for _ in range(4_000):
            if self.double.connections == 0:
                return
            Event().wait(0.005)
        raise AssertionError("a connection to Stripe stays open")

    def bill_killed_at_commit(self, number: int, *, after_commit: bool) -> bool:
        """Bill in a child that kills itself with SIGKILL before or after one of the ledger's commits.

        Returns:
            False when the run had fewer commits and ended by itself.
        """
        ended = self.bill_in_child(kill_at_commit=number, kill_after=after_commit)
        assert ended["status"] in {KILLED, 0}, ended
        return bool(ended["status"] == KILLED)

    def one_more_run_must_finish(self, *, parked: Collection[str] = ()) -> None:
        """Bill once more; then everything must be in order, and yet another run must change nothing."""
        outcome = self.bill()
        assert outcome.unfinished == {}
        self.must_be_finished(parked=parked)

    def must_be_finished(self, *, parked: Collection[str] = ()) -> None:
        """Check the finished month, and that a further run and a verifying one send no write.

        What a further run does depends on what stands now and on nothing else, so one that was tried on the
        same before is not tried again: most crash points end alike.
        """
        with self.ledger() as ledger:
            check_finished(self.double, ledger, self.drafts, parked)
            stands = what_stands(self.double, ledger)
        if stands not in self._tried_on:
            self._further_runs_must_change_nothing(parked)
            self._tried_on.add(stands)
        self.survived()

    def _further_runs_must_change_nothing(self, parked: Collection[str]) -> None:
        writes, requests = len(self.double.writes), len(self.double.requests)
        with self.ledger() as ledger:
            record = ledger.month(OCTOBER)
        assert record is not None
        again = self.bill()
        assert again.unfinished == {}
        assert len(self.double.writes) == writes, self.double.writes[writes:]
        assert record.billed_at is None or len(self.double.requests) == requests
        self.bill(verify=True)
        assert len(self.double.writes) == writes, self.double.writes[writes:]
        with self.ledger() as ledger:
            check_finished(self.double, ledger, self.drafts, parked)

    @contextmanager
    def point(self, name: str) -> Iterator[None]:
        """Name the point at which it strikes, should an assertion fail."""
        try:
            yield
        except BaseException as error:
            error.add_note(f"struck: {name}")
            raise
