"""What a decision about a month is given, and what it answers; validation and OpenAPI come from here."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from spell_billing.web import api

_Reason = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True,
        max_length=500,
        # Something other than a space, and no control character.
        pattern=r"^[^\x00-\x1f\x7f]*[^\x00-\x20\x7f][^\x00-\x1f\x7f]*$",
    ),
]
_UserId = Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=r"^[^\x00]*$")]


class Body(BaseModel):
    """What every decision is given."""

    model_config = ConfigDict(extra="forbid")

    reason: _Reason = Field(description="Why, in words, for the audit trail.")


def _either(one: dict[str, Any], other: dict[str, Any]) -> ConfigDict:
    """Describe a body that holds one thing or another: fields with their schema, which must be there."""
    either: list[Any] = [{"properties": each, "required": [next(iter(each))]} for each in (one, other)]
    return ConfigDict(extra="forbid", json_schema_extra={"oneOf": either})


class Approval(Body):
    """Approve a month in review, exactly as it was reviewed."""

    drafts_hash: str = Field(
        min_length=1, max_length=100, description="Of the review that was looked at, as in `review`."
    )


class Hold(Body):
    """Hold or release one user's bill, or everybody's."""

    model_config = _either(
        {"user_id": {"type": "string"}, "all": {"const": False}},
        {"all": {"const": True}, "user_id": {"type": "null"}},
    )
    user_id: _UserId | None = Field(default=None, description="The platform's user; or give `all`.")
    all: bool = Field(default=False, description="Everybody, instead of one user.")

    @model_validator(mode="after")
    def _whom(self) -> Self:
        if (self.user_id is None) is not self.all:
            raise ValueError("give either user_id, or all as true")
        return self


class Credit(Body):
    """Give one user's invoice back: all of it, or an `amount` as a person writes it, in its currency."""

    user_id: _UserId
    amount: Annotated[
        str, StringConstraints(strip_whitespace=True, pattern=r"^([0-9]{1,10}([.][0-9]{1,3})?)?$")
    ] = ""
    all: bool = False
    to: Literal["card", "balance"] = "card"

    @model_validator(mode="after")
    def _how_much(self) -> Self:
        if bool(self.amount) is self.all:
            raise ValueError("give either an amount, or all of it")
        return self


class Void(Body):
    """Void one user's invoice; `then` the next run bills the user again, or nobody does."""

    user_id: _UserId
    then: Literal["bill-again", "for-good"]


class Settlement(Body):
    """Close a bill that a person dealt with, or a credit that a person gave back."""

    model_config = _either(
        {"as": {"type": "string"}, "credit": {"type": "null"}},
        {"credit": {"type": "string"}, "as": {"type": "null"}},
    )
    user_id: _UserId = Field(description="The platform's user.")
    settled_as: Literal["billed-by-hand", "written-off"] | None = Field(
        default=None, alias="as", description="What became of the bill; or give `credit`."
    )
    credit: Annotated[str, StringConstraints(pattern="^[A-Za-z]{3}$")] | None = Field(
        default=None, description="The currency of the credit to settle, instead of a bill."
    )

    @model_validator(mode="after")
    def _what(self) -> Self:
        if (self.settled_as is None) is (self.credit is None):
            raise ValueError("give either as, or credit")
        return self


BODIES: dict[str, type[Body]] = {
    "approve": Approval,
    "hold": Hold,
    "release": Hold,
    "settle": Settlement,
    "credit": Credit,
    "void": Void,
}
"""What each decision takes, by its name in the path; `credit` and `void` are of the forms alone."""


class Decided(BaseModel):
    """What came of a decision, which may have been carried out before; what it is not about is left out."""

    month: api.MonthText
    decision: str = Field(description="`approve`, `hold`, `release` or `settle`.")
    drafts_hash: str = Field(default="", description="Of the drafts that were approved.")
    approvals_missing: int = Field(default=0, description="How many more people must approve them.")
    bills: int = Field(default=0, description="How many were held or released.")
    credit_cents: api.Cents = Field(default=0, description="The credit that was settled.")
    state: str = Field(default="", description="Of the bill that was settled.")
    total_cents: api.Cents = Field(default=0, description="What that bill charges.")
    currency: api.Currency = ""


class Told(Decided):
    """What came of giving money back, or of a void."""

    words: str | None = None
    """What to tell the person in place of what is usual."""
