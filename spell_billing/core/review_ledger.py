"""What the ledger shows, or cannot show any more, that a person must see to before a month is sent.

Pure rules, beside those of `core/review.py`; what they find holds the whole month.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from spell_billing.core.money import format_money
from spell_billing.core.moves import Extent, Move
from spell_billing.core.review import NAMED, Code, Finding, and_more, in_users, some


@dataclass(frozen=True, slots=True)
class LeftBalance:
    """What a user's former customer has on its balance at Stripe, by the ledger, and who is billed instead.

    `cents` are minor units that the customer owes; below zero, a credit of theirs.
    """

    user: str
    customer: str
    now: str
    currency: str
    cents: int


def balance_findings(left: Sequence[LeftBalance]) -> list[Finding]:
    """Find amounts at Stripe that no invoice takes up, because the users have other customers now."""
    if not left:
        return []
    named = " ".join(
        f"{each.user}: {each.customer} {'owes' if each.cents > 0 else 'has a credit of'} "
        f"{format_money(abs(each.cents), each.currency, grouping=True)}, and was replaced by {each.now}."
        for each in left[:NAMED]
    )
    more = f" And {len(left) - NAMED:,} more." if len(left) > NAMED else ""
    text = (
        f"Customers at Stripe were replaced, and their balances stay with them: {named}{more} Set the "
        "customer back and bill the month again; or move the amount from one balance to the other at "
        "Stripe, and approve."
    )
    return [Finding(Code.BALANCE_LEFT_BEHIND, text, {"balances": [asdict(each) for each in left]})]


@dataclass(frozen=True, slots=True)
class Older:
    """A month of which Stripe had invoices that the ledger never knew.

    `last_invoice` is when the newest that it knew was finalized, in UTC; empty where it knew none.
    """

    month: str
    last_invoice: str


def older_findings(older: Sequence[Older]) -> list[Finding]:
    """Find that the ledger is from before invoices at Stripe: what was decided since then is lost."""
    if not older:
        return []
    months = ", ".join(each.month for each in older)
    last = min(each.last_invoice for each in older)
    knew = f"The newest that it knew is of {last} UTC." if last else "It knew none."
    text = (
        f"Stripe had invoices of {months} that this ledger lacked, as after a backup was restored. {knew} "
        "What was decided since the backup is not in it: see who got a grant, whose bill was settled or "
        "held, and who moved to another id. Enter it again (`spell-billing grant`, `settle`, `hold`, "
        "`move-user`), bill the month again, and approve."
    )
    return [Finding(Code.DECISIONS_LOST, text, {"months": [each.month for each in older]})]


def not_compared_findings(month: str, why: Mapping[str, str]) -> list[Finding]:
    """Find billed months that late usage cannot be looked for in: the ledger or the store is incomplete."""
    if not why:
        return []
    text = (
        f"Late usage of {', '.join(sorted(why))} is not looked for: {' '.join(dict.fromkeys(why.values()))} "
        f"Then bill the month again. If that cannot be, approve: {month} is billed without this late usage, "
        "and later months look for it again."
    )
    return [Finding(Code.PAST_NOT_COMPARED, text, {"months": dict(why)})]


def move_findings(moves: Sequence[Move]) -> list[Finding]:
    """Find users who lost in billed months what another gained: one finding for each extent."""
    of = {extent: [move for move in moves if move.extent is extent] for extent in Extent}
    return [_MOVED[extent](found) for extent, found in of.items() if found]


def _moved_whole(moves: Sequence[Move]) -> Finding:
    text = (
        f"{in_users(len(moves))} lost in billed months exactly what another gained: as it stands, the "
        "one is credited and the other charged."
    )
    return _moved(moves, text + _commands(moves, "several lost or gained the same"))


def _moved_beyond(moves: Sequence[Move]) -> Finding:
    users = len({move.from_user for move in moves})
    text = (
        f"{in_users(users)} lost all that billed months charged, while another gained at least as much: as "
        "it stands, the one is credited and the other charged."
    )
    text += _commands(moves, "several lost or gained as much")
    return _moved(moves, f"{text} If nothing moved, approve.")


def _moved_in_part(moves: Sequence[Move]) -> Finding:
    pairs = [f"from {each.from_user} to {each.to_user} in {', '.join(each.months)}" for each in moves]
    text = (
        f"Part of what was billed seems to have another user now, to the cent: {some(pairs)}. As it stands, "
        "the one is credited and the other charged. If the usage is the other's, or nothing moved, approve. "
        "If not, restore the user of these rows, and bill the month again."
    )
    return _moved(moves, text)


_MOVED = {Extent.WHOLE: _moved_whole, Extent.BEYOND: _moved_beyond, Extent.PART: _moved_in_part}


def _commands(moves: Sequence[Move], why_not: str) -> str:
    """Name the commands that record moves, and who is left because of what cannot be told."""
    told = [move for move in moves if move.is_told]
    unclear = sorted({move.from_user for move in moves if not move.is_told})
    commands = "; ".join(
        f"`spell-billing move-user --from {shlex.quote(move.from_user)} --to {shlex.quote(move.to_user)} "
        "--reason ...`"
        for move in told[:NAMED]
    )
    text = ""
    if told:
        text += (
            f" Where usage moved, record it with {commands}{and_more(len(told))}, then bill the month again."
        )
    if unclear:
        text += (
            f" Who became whom cannot be told of {some(unclear)}: {why_not}. Record with "
            "`spell-billing move-user` what your platform knows of them."
        )
    return text


def _moved(moves: Sequence[Move], text: str) -> Finding:
    told = [move for move in moves if move.is_told]
    pairs = [
        {"from": move.from_user, "to": move.to_user, "months": list(move.months)} for move in told[:NAMED]
    ]
    data = {
        "extent": moves[0].extent.value,
        "moves": len(moves),
        "pairs": pairs,
        "not_told": len(moves) - len(told),
    }
    return Finding(Code.USERS_MOVED, text, data)
