"""What goes wrong between this machine and the server, each with what to do about it."""

from spell_billing.core.errors import SpellBillingError


class TriggerError(SpellBillingError):
    """The server refuses, or the run cannot be started or followed."""


class ServerLostError(TriggerError):
    """The server does not answer, or answers that it cannot now: the same request may go through later."""

    transient = True

    def __init__(self, message: str, *, remedy: str, wait_seconds: float = 0) -> None:
        """Take the seconds as well that the server asks to wait before the next try."""
        super().__init__(message, remedy=remedy)
        self.wait_seconds = wait_seconds
