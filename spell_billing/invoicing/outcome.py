"""What a billing run and its sweep did."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from spell_billing.core.latencies import Latencies


@dataclass(slots=True)
class SweepResult:
    """What the sweep found and did, as counts and, where a person must look, ids."""

    listed: int = 0
    adopted: int = 0
    drafts_taken_up: int = 0
    drafts_deleted: int = 0
    parked: int = 0
    unknown: list[str] = field(default_factory=list)
    renamed: list[str] = field(default_factory=list)
    revised: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Outcome:
    """What one run did.

    Attributes:
        sent_nothing: The month was on record as billed.
        in_review: Nothing was sent: a person must approve the drafts first.
        invoiced: Users who got their invoice.
        unfinished: Users whose outcome is unknown until the next run, and why.
        sweep: What stood at Stripe before.
        requests: Number and durations of the requests, by endpoint.
        limited: Requests that Stripe answered with 429.
    """

    sent_nothing: bool = False
    in_review: bool = False
    invoiced: int = 0
    unfinished: dict[str, str] = field(default_factory=dict)
    sweep: SweepResult = field(default_factory=SweepResult)
    requests: Mapping[str, Latencies] = field(default_factory=dict)
    limited: int = 0
