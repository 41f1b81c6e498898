"""What a person is told of users who became others, with the command where it is certain."""

import shlex
from collections.abc import Sequence

from spell_billing.core.past import Move
from spell_billing.core.review import NAMED, Code, Finding, in_users


def move_findings(moves: Sequence[Move]) -> list[Finding]:
    """Find users who lost in billed months exactly what another gained."""
    if not moves:
        return []
    told = [move for move in moves if move.is_told]
    unclear = sorted({move.from_user for move in moves if not move.is_told})
    commands = "; ".join(
        f"`spell-billing move-user --from {shlex.quote(move.from_user)} --to {shlex.quote(move.to_user)} "
        "--reason ...`"
        for move in told[:NAMED]
    )
    text = (
        f"{in_users(len(moves))} lost in billed months exactly what another gained: as it stands, the "
        "one is credited and the other charged."
    )
    if told:
        more = _more(len(told))
        text += f" Where usage moved, record it with {commands}{more}, then bill the month again."
    if unclear:
        text += (
            f" Who became whom cannot be told of {', '.join(unclear[:NAMED])}{_more(len(unclear))}: several "
            "lost or gained the same. Record with `spell-billing move-user` what your platform knows of them."
        )
    pairs = [
        {"from": move.from_user, "to": move.to_user, "months": list(move.months)} for move in told[:NAMED]
    ]
    data = {"moves": len(moves), "pairs": pairs, "not_told": len(moves) - len(told)}
    return [Finding(Code.USERS_MOVED, text, data)]


def _more(number: int) -> str:
    return f" and {number - NAMED:,} more" if number > NAMED else ""
