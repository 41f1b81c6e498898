"""What a billing run and its sweep did."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class SweepResult:
    """What the sweep found and did, as counts and, where a person must look, ids."""

    listed: int = 0
    adopted: int = 0
    drafts_taken_up: int = 0
    drafts_deleted: int = 0
    parked: int = 0
    unknown: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Outcome:
    """What one run did. `unfinished` names users whose outcome is unknown until the next run, and why."""

    sent_nothing: bool = False
    invoiced: int = 0
    unfinished: dict[str, str] = field(default_factory=dict)
    sweep: SweepResult = field(default_factory=SweepResult)
    requests: dict[str, int] = field(default_factory=dict)
    limited: int = 0
