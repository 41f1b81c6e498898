"""Keeps on record how each drive of a month ended, also when it raises."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial

import sqlalchemy as sa

from spell_billing.core.errors import SpellBillingError
from spell_billing.core.month import Month
from spell_billing.core.outcomes import UNDONE
from spell_billing.invoicing.outcome import Outcome
from spell_billing.invoicing.report import Log
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.runs import RunRecord, RunResult


@contextmanager
def recorded(ledger: Ledger, month: Month, run_id: str, log: Log) -> Iterator[Outcome]:
    """Return the outcome that the drive is to fill; at the end, write it to the ledger with its result.

    A record that cannot be written is a warning: it hides neither the run's success nor its error.
    """
    outcome, started_at = Outcome(), datetime.now(UTC)

    def keep(result: Callable[[], RunResult]) -> None:
        try:
            ledger.record_run(
                RunRecord(
                    run_id=run_id,
                    month=str(month),
                    started_at=started_at,
                    ended_at=datetime.now(UTC),
                    result=result(),
                    invoiced=outcome.invoiced,
                    unfinished=len(outcome.unfinished),
                    limited=outcome.limited,
                    requests=outcome.requests,
                )
            )
        except (sa.exc.SQLAlchemyError, SpellBillingError, OSError) as error:
            log.warning(
                f"How this run of {month} ended could not be kept in the ledger ({type(error).__name__}): it "
                "is missing in metrics and to the retries. Invoices are not affected."
            )

    try:
        yield outcome
    except BaseException as error:
        keep(partial(_result_of_error, error))
        raise
    keep(partial(_result_of_success, ledger, month, outcome))


def _result_of_success(ledger: Ledger, month: Month, outcome: Outcome) -> RunResult:
    if outcome.in_review:
        return RunResult.IN_REVIEW
    if outcome.unfinished:
        return RunResult.UNFINISHED
    left = any(group.state in UNDONE for group in ledger.group_totals(month))
    return RunResult.USERS_LEFT if left else RunResult.DONE


def _result_of_error(error: BaseException) -> RunResult:
    if isinstance(error, SpellBillingError):
        return RunResult.STOPPED if error.transient else RunResult.REFUSED
    # A run that a person interrupted must not be retried by itself; any other error may have passed by then,
    # and to try again is safe.
    return RunResult.STOPPED if isinstance(error, Exception) else RunResult.REFUSED
