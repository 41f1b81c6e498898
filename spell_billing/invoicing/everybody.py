"""A correction of many bills of a month: the same step for each, one after the other, and who was refused."""

from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import NamedTuple, TypeVar

from sqlalchemy.engine import Connection

from spell_billing.core.errors import LedgerError, LedgerLostError
from spell_billing.core.month import Month
from spell_billing.core.outcomes import State
from spell_billing.ledger.queries import latest_generation, read_bills

T = TypeVar("T")


class Refused(NamedTuple):
    """A user whose bill was left as it is, and why."""

    user_id: str
    why: str


def users_in(connection: Connection, month: Month, states: Collection[State]) -> list[str]:
    """Return the users whose latest bill of a month is in one of some states, in the order of their bills."""
    return [bill.user_id for bill in read_bills(connection, month, latest_generation(month), states=states)]


async def for_each(users: Iterable[str], act: Callable[[str], Awaitable[T]]) -> tuple[list[T], list[Refused]]:
    """Do something for each user; return what came of it, and who was refused.

    Raises:
        StripeAccountError: from `act`, when Stripe does not answer: what was done is done; repeat the whole.
        LedgerLostError: likewise, when the ledger is lost.
    """
    done, refused = list[T](), list[Refused]()
    for user_id in users:
        try:
            done.append(await act(user_id))
        except LedgerLostError:
            raise
        except LedgerError as error:
            refused.append(Refused(user_id, error.message))
    return done, refused
