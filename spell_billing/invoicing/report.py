"""What a billing run did: counted, told of every user in the log, and recorded, also when it raises."""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import sqlalchemy as sa

from spell_billing.core.errors import SpellBillingError
from spell_billing.core.latencies import Latencies
from spell_billing.core.money import format_money
from spell_billing.core.month import Month
from spell_billing.core.outcomes import UNDONE, State
from spell_billing.core.shown import one_line
from spell_billing.core.terms import NEGATIVE_LINE, NOT_PLACED
from spell_billing.invoicing.progress import Progress
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Bill
from spell_billing.ledger.runs import RunRecord, RunResult

_USERS_IN_THE_LOG = 1_000
"""How many users appear by name: Dagster stores a line as an event, which costs more than the invoice."""
_NOT_INVOICED = {
    "held": "Held back user",
    "errors": "Failed to bill user",
    "not sent yet": "Not sent yet: user",
}
"""How the log names a user without an invoice, by what the last line counts the user as."""
_USERS_WITHOUT_TAX = 20
_WITHOUT_TAX = {
    NEGATIVE_LINE: "because Stripe computes none for an invoice with a negative line",
    NOT_PLACED: "because Stripe cannot place the customer (complete the address at Stripe)",
}


@dataclass(slots=True)
class SweepResult:
    """What the sweep found and did, as counts and, where a person must look, ids."""

    listed: int = 0
    adopted: int = 0
    drafts_taken_up: int = 0
    drafts_deleted: int = 0
    parked: int = 0
    unknown: list[str] = field(default_factory=list)
    is_from_before: bool = False
    """Stripe has invoices of the month that were finalized without this ledger."""
    renamed: list[str] = field(default_factory=list)
    revised: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Outcome:
    """What one run did: users invoiced, those whose outcome is unknown and why, and requests by endpoint."""

    sent_nothing: bool = False
    """The month was on record as billed."""
    in_review: bool = False
    """Nothing was sent: a person must approve the drafts first."""
    invoiced: int = 0
    unfinished: dict[str, str] = field(default_factory=dict)
    sweep: SweepResult = field(default_factory=SweepResult)
    requests: Mapping[str, Latencies] = field(default_factory=dict)
    limited: int = 0
    """Requests that Stripe answered with 429."""


class BillingReport:
    """Writes a line per user, and progress for months too large for that."""

    def __init__(self, log: logging.Logger, *, to_drive: int) -> None:
        self._log = log
        self._named = 0
        self._progress = Progress("invoices", to_drive, log.info)
        self._without_tax: defaultdict[str, list[str]] = defaultdict(list)

    def invoiced(self, bill: Bill) -> None:
        """Report that a user was invoiced."""
        self._named += 1
        if self._named <= _USERS_IN_THE_LOG:
            money = format_money(bill.invoice_cents, bill.currency)
            what = f"invoice {bill.stripe_invoice_id} for user {one_line(bill.user_id)}"
            self._log.info(f"Created {what} ({money}, {bill.calls} calls)")
        elif self._named == _USERS_IN_THE_LOG + 1:
            self._log.info("Further invoices are not listed here; `spell-billing invoices` has them all")
        if bill.without_tax is not None:
            self._without_tax[bill.without_tax].append(bill.user_id)
        self._progress.advance()

    def not_invoiced(self) -> None:
        """Count a user who was not invoiced; `completed` names them."""
        self._progress.advance()

    def completed(self, outcome: Outcome, undone: Iterable[Bill]) -> None:
        """Report who has no invoice and why, and how the run went."""
        counts: Counter[str] = Counter()
        for bill in undone:
            unknown = outcome.unfinished.get(bill.user_id)
            why = f"outcome unknown, the next run asks Stripe: {unknown}" if unknown else bill.why
            what = "held" if bill.state is State.HELD else "errors" if why else "not sent yet"
            counts[what] += 1
            if counts.total() <= _USERS_IN_THE_LOG:
                self._log.warning(
                    one_line(f"{_NOT_INVOICED[what]} {bill.user_id}" + (f": {why}" if why else ""))
                )
        more_users = counts.total() - _USERS_IN_THE_LOG
        errors = counts.pop("errors", 0)
        if more_users > 0:
            self._log.warning(f"and {more_users:,} more users, see `spell-billing invoices`")
        for why, users in sorted(self._without_tax.items()):
            named = ", ".join(users[:_USERS_WITHOUT_TAX])
            more = len(users) - _USERS_WITHOUT_TAX
            others = f" and {more:,} more, see `spell-billing explain`" if more > 0 else ""
            self._log.warning(f"Invoiced without tax, {_WITHOUT_TAX[why]}: {named}{others}")
        others = "".join(f", {number:,} {what}" for what, number in sorted(counts.items()))
        self._log.info(f"Monthly billing completed: {outcome.invoiced} successful, {errors} errors{others}")

    def swept(self, result: SweepResult) -> None:
        """Report what already stood at Stripe."""
        self._log.info(
            f"Asked Stripe what stands: {result.listed} invoices listed, {result.adopted} taken into the "
            f"ledger, {result.drafts_taken_up} drafts taken up, {result.drafts_deleted} drafts deleted, "
            f"{result.parked} parked"
        )
        if result.is_from_before:
            self._log.warning(
                "This ledger is older than some of these invoices, and lacks what people decided since then: "
                "bills that are left are held, and the next month will be in review"
            )
        for named in result.renamed:
            self._log.warning(f"The metadata of invoice {named} was changed at Stripe; it was restored")
        for named in result.revised:
            self._log.warning(f"An invoice was edited at Stripe; the ledger follows its revision {named}")
        for invoice_id in result.unknown:
            self._log.warning(f"Invoice {invoice_id} carries our key, but the ledger has no usage for it")


@contextmanager
def recorded(ledger: Ledger, month: Month, run_id: str, log: logging.Logger) -> Iterator[Outcome]:
    """Give the outcome that the run is to fill; at the end, write it to the ledger with its result.

    A record that cannot be written is a warning: it hides neither the run's success nor its error.
    """
    outcome, started_at = Outcome(), datetime.now(UTC)
    error: BaseException | None = None
    try:
        yield outcome
    except BaseException as raised:
        error = raised
        raise
    finally:
        try:
            ledger.record_run(
                RunRecord(
                    run_id=run_id,
                    month=str(month),
                    started_at=started_at,
                    ended_at=datetime.now(UTC),
                    result=_result(ledger, month, outcome, error),
                    invoiced=outcome.invoiced,
                    unfinished=len(outcome.unfinished),
                    limited=outcome.limited,
                    requests=outcome.requests,
                )
            )
        except (sa.exc.SQLAlchemyError, SpellBillingError, OSError) as lost:
            log.warning(
                f"How this run of {month} ended could not be kept in the ledger ({type(lost).__name__}): it "
                "is missing in metrics and to the retries. Invoices are not affected."
            )


def _result(ledger: Ledger, month: Month, outcome: Outcome, error: BaseException | None) -> RunResult:
    if error is not None:
        # A run that a person interrupted must not be retried by itself; any error that is not ours may have
        # passed by then, and to try again is safe.
        passes = error.transient if isinstance(error, SpellBillingError) else isinstance(error, Exception)
        return RunResult.STOPPED if passes else RunResult.REFUSED
    if outcome.in_review:
        return RunResult.IN_REVIEW
    if outcome.unfinished:
        return RunResult.UNFINISHED
    left = any(group.state in UNDONE for group in ledger.group_totals(month))
    return RunResult.USERS_LEFT if left else RunResult.DONE
