"""A stateful double of Stripe over HTTP: invoices as Stripe makes them, faults on demand.

`StripeDouble.running` is for tests, `serve` for a process. Nothing here imports the rest of spell_billing.
"""

from spell_billing.stripe_double.double import StripeDouble
from spell_billing.stripe_double.errors import DoubleError
from spell_billing.stripe_double.faults import Fault, FaultKind, RequestRecord
from spell_billing.stripe_double.limits import RateLimits
from spell_billing.stripe_double.objects import ABSENT, Invoice, Violation

__all__ = [
    "ABSENT",
    "DoubleError",
    "Fault",
    "FaultKind",
    "Invoice",
    "RateLimits",
    "RequestRecord",
    "StripeDouble",
    "Violation",
]
