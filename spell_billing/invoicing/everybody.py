"""A correction of many bills of a month: the same step for each, one after the other, and who was refused."""

from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.errors import LedgerError, LedgerLostError
from spell_billing.core.month import Month
from spell_billing.core.outcomes import State
from spell_billing.ledger.queries import latest_generation
from spell_billing.ledger.schema import invoices

T = TypeVar("T")


def users_in(connection: Connection, month: Month, states: Collection[State]) -> list[str]:
    """Return the users whose latest bill of a month is in one of some states, in the order of their bills."""
    query = sa.select(invoices.c.user_id).where(
        latest_generation(month), invoices.c.state.in_([each.value for each in states])
    )
    return list(connection.scalars(query.order_by(invoices.c.id)))


async def for_each(users: Iterable[str], act: Callable[[str], Awaitable[T]]) -> tuple[list[T], list[str]]:
    """Do something for each user; return what came of it, and why it was refused for others.

    Raises:
        StripeAccountError: from `act`, when Stripe does not answer: what was done is done; repeat the whole.
        LedgerLostError: likewise, when the ledger is lost.
    """
    done, refused = list[T](), list[str]()
    for user_id in users:
        try:
            done.append(await act(user_id))
        except LedgerLostError:
            raise
        except LedgerError as error:
            refused.append(f"{error.message} {error.remedy}")
    return done, refused
