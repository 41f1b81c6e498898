"""A user's grants, as endpoints answer them."""

from collections.abc import Sequence
from datetime import date
from typing import Literal

from pydantic import BaseModel, Field

from spell_billing.core.grants import Grant
from spell_billing.core.money import format_money
from spell_billing.web.api import Cents, Currency, Moment, Money, User


class UserGrant(BaseModel):
    """One grant: granted - used - revoked - expired = left."""

    grant_id: str = Field(description="Names the grant.")
    kind: Literal["granted", "paid"] = Field(description="Promotional, or bought by the user.")
    currency: Currency
    granted_cents: Cents = Field(description="What it began with.")
    used_cents: Cents = Field(description="What paid for bills.")
    revoked_cents: Cents = Field(description="What was taken back.")
    expired_cents: Cents = Field(description="What was left when it expired.")
    left_cents: Cents = Field(description="What still pays for bills.")
    left: Money
    granted_at: Moment = Field(description="When it was made.")
    expires_on: date = Field(description="It pays for months that begin before this day (UTC).")


class Grants(BaseModel):
    """A user's grants."""

    user_id: User
    grants: list[UserGrant] = Field(description="The oldest first.")


def grants_answer(user_id: str, found: Sequence[Grant]) -> Grants:
    """Return the answer for a user: what pays for this user's bills, also where it was made for another."""
    return Grants(user_id=user_id, grants=[_grant(each) for each in found])


def _grant(grant: Grant) -> UserGrant:
    left_cents = grant.left_cents - grant.expired_cents
    return UserGrant(
        grant_id=grant.grant_id,
        kind="paid" if grant.kind == "paid" else "granted",
        currency=grant.currency,
        granted_cents=grant.amount_cents,
        used_cents=grant.applied_cents,
        revoked_cents=grant.revoked_cents,
        expired_cents=grant.expired_cents,
        left_cents=left_cents,
        left=format_money(left_cents, grant.currency, grouping=True),
        granted_at=grant.granted_at,
        expires_on=grant.expires_on,
    )
