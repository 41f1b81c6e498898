"""What a billing run says about every user, in the log lines that the platform's operators know."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Protocol

from spell_billing.core.money import format_money
from spell_billing.core.terms import NEGATIVE_LINE, NOT_PLACED
from spell_billing.invoicing.outcome import Outcome, SweepResult
from spell_billing.invoicing.progress import Progress
from spell_billing.ledger.rows import Bill

_USERS_IN_THE_LOG = 1_000
"""Dagster stores each line as an event, which costs more than the invoice: so many users appear by name."""


_USERS_WITHOUT_TAX = 20
_WITHOUT_TAX = {
    NEGATIVE_LINE: "because Stripe computes none for an invoice with a negative line",
    NOT_PLACED: "because Stripe cannot place the customer (complete the address at Stripe)",
}


class Log(Protocol):
    """Takes lines: Dagster's `context.log`, or a standard logger."""

    def info(self, msg: object, /) -> None:
        """Write a line."""
        ...

    def warning(self, msg: object, /) -> None:
        """Write a line that a person should see."""
        ...


class BillingReport:
    """Writes a line per user, and progress for months too large for that."""

    def __init__(self, log: Log, *, to_drive: int) -> None:
        self._log = log
        self._named = 0
        self._progress = Progress("invoices", to_drive, log.info)
        self._without_tax: defaultdict[str, list[str]] = defaultdict(list)

    def invoiced(self, bill: Bill) -> None:
        """Say that a user was invoiced."""
        money = format_money(bill.invoice_cents, bill.currency)
        self._user_line(
            f"Created invoice {bill.stripe_invoice_id} for user {bill.user_id} ({money}, {bill.calls} calls)"
        )
        if bill.without_tax is not None:
            self._without_tax[bill.without_tax].append(bill.user_id)
        self._progress.advance()

    def not_invoiced(self) -> None:
        """Count a user who was not invoiced; `completed` names them."""
        self._progress.advance()

    def completed(self, outcome: Outcome, undone: Iterable[Bill]) -> None:
        """Say who has no invoice and why, and how the run went."""
        errors = 0
        for bill in undone:
            errors += 1
            if errors <= _USERS_IN_THE_LOG:
                unknown = outcome.unfinished.get(bill.user_id)
                why = f"outcome unknown, the next run asks Stripe: {unknown}" if unknown else bill.why
                self._log.warning(f"Failed to bill user {bill.user_id}: {why or 'not sent yet'}")
        if errors > _USERS_IN_THE_LOG:
            self._log.warning(f"and {errors - _USERS_IN_THE_LOG:,} more users, see `spell-billing invoices`")
        for why, users in sorted(self._without_tax.items()):
            named = ", ".join(users[:_USERS_WITHOUT_TAX])
            more = len(users) - _USERS_WITHOUT_TAX
            others = f" and {more:,} more, see `spell-billing explain`" if more > 0 else ""
            self._log.warning(f"Invoiced without tax, {_WITHOUT_TAX[why]}: {named}{others}")
        self._log.info(f"Monthly billing completed: {outcome.invoiced} successful, {errors} errors")

    def swept(self, result: SweepResult) -> None:
        """Say what already stood at Stripe."""
        self._log.info(
            f"Asked Stripe what stands: {result.listed} invoices listed, {result.adopted} taken into the "
            f"ledger, {result.drafts_taken_up} drafts taken up, {result.drafts_deleted} drafts deleted, "
            f"{result.parked} parked"
        )
        for named in result.renamed:
            self._log.warning(f"The metadata of invoice {named} was changed at Stripe; it was restored")
        for named in result.revised:
            self._log.warning(f"An invoice was edited at Stripe; the ledger follows its revision {named}")
        for invoice_id in result.unknown:
            self._log.warning(f"Invoice {invoice_id} carries our key, but the ledger has no usage for it")

    def _user_line(self, text: str) -> None:
        self._named += 1
        if self._named <= _USERS_IN_THE_LOG:
            self._log.info(text)
        elif self._named == _USERS_IN_THE_LOG + 1:
            self._log.info("Further invoices are not listed here; `spell-billing invoices` has them all")
