"""The errors that operators see: each names what is wrong and the remedy."""

from spell_billing.core.shown import one_line


class SpellBillingError(Exception):
    """Billing cannot go on. `message` names the thing, `remedy` what to do about it."""

    transient = False
    """Whether a later try may succeed although no person did anything."""

    def __init__(self, message: str, *, remedy: str) -> None:
        message, remedy = one_line(message), one_line(remedy)
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class SettingsError(SpellBillingError):
    """A setting is missing or malformed."""


class MonthError(SpellBillingError):
    """The month is malformed, not closed yet, or precedes the first billed month."""


class MonthTooEarlyError(MonthError):
    """The month is over, and late writers still have time to add to it."""

    transient = True


class UsageError(SpellBillingError):
    """The usage source cannot be read, or its rows cannot be billed."""


class UsageInterruptedError(UsageError):
    """The usage source ended what was read from it, for a reason that passes."""

    transient = True


class SourceBehindError(UsageError):
    """The usage source is a standby that does not have the whole month yet."""

    transient = True


class StoreError(SpellBillingError):
    """The store of frozen usage refuses, or what is frozen lies somewhere else."""


class StoreInterruptedError(StoreError):
    """The store of frozen usage does not answer, or was changed by another process meanwhile."""

    transient = True


class LedgerError(SpellBillingError):
    """The ledger cannot be reached, or its contents contradict the request."""


class MonthLockedError(LedgerError):
    """Another process holds the month's lock."""

    transient = True


class DraftsOutdatedError(LedgerError):
    """What drafts rely on has changed since they were made: the month is drafted anew."""

    transient = True


class LedgerLostError(LedgerError):
    """The ledger went away, or was changed by someone else, in the middle of a run."""

    transient = True


class IntegrityError(SpellBillingError):
    """Two numbers that must be equal to the cent differ."""


def altered_row(what: str, table: str) -> IntegrityError:
    """Return the error for a row of the ledger that somebody altered by hand."""
    return IntegrityError(
        f"{what} was altered, and cannot be read.",
        remedy=f"Restore the row of {table} from the ledger's backup.",
    )


def altered_value(value: object, what: str) -> IntegrityError:
    """Return the error for a value in the ledger that is not what its column holds."""
    return IntegrityError(
        f"The ledger has {str(value)[:80]!r} where it keeps {what}: somebody altered a row by hand.",
        remedy="Restore the row from the ledger's backup.",
    )


def altered_text(what: str, text: str, error: Exception) -> IntegrityError:
    """Return the error for a text of a bill that the ledger has and cannot be read."""
    return IntegrityError(
        f"The {what} of a bill in the ledger cannot be read ({error}): {text[:80]!r}.",
        remedy="`spell-billing reconcile` names the user. Restore the row from the ledger's backup.",
    )


class StripeAccountError(SpellBillingError):
    """Stripe refuses or cannot serve the whole account: nothing is sent any more."""


class StripeSilentError(StripeAccountError):
    """Stripe or the network does not answer: what is refused today may go through later."""

    transient = True


class AlertError(SpellBillingError):
    """An alert did not go out on some channel."""
