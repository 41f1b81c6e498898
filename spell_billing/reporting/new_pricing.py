"""The file of other prices for a simulation: read as text, checked, and put in place of frozen plans."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from spell_billing.core.errors import UsageError
from spell_billing.core.month import Month
from spell_billing.usage.plan_book import DISCOUNT, PLAN, PLANS_SCHEMA

Terms = Mapping[str, Any]
"""What a plan says: the columns of `PLANS_SCHEMA` that are the same for all its users."""

_OF_TERMS = ("plan_id", "name", "included_cents", "fee_cents", "minimum_cents", "percent", "currency")
_MOST_PERCENT, _MOST_USAGE_PERCENT = 100, 10_000
_NUMBER = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?")
_NOTHING = frozenset({"", "~", "null"})
_NAMED = 5


def _cents(value: Any) -> int:
    if not isinstance(value, str) or not _NUMBER.fullmatch(value) or "." in value:
        raise ValueError("must be a whole number of cents, zero or more")
    return int(value)


def _percent_up_to(most: int) -> Any:
    def read(value: Any) -> Decimal:
        if not isinstance(value, str) or not _NUMBER.fullmatch(value) or Decimal(value) > most:
            raise ValueError(f"must be a percentage from 0 to {most}, as 12.5")
        return Decimal(value)

    return BeforeValidator(read)


def _moment(value: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError("must be a time, as 2026-10-31 or 2026-10-31 12:00:00+00:00") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


_Cents = Annotated[int, BeforeValidator(_cents)]
_Percent = Annotated[Decimal, _percent_up_to(_MOST_PERCENT)]
_Moment = Annotated[datetime, BeforeValidator(_moment)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nothing(cls, given: Any) -> Any:
        if isinstance(given, Mapping):
            return {name: value for name, value in given.items() if value is not None}
        return given


class NewPlan(_Part):
    """A plan's other prices, for a whole month, in minor units."""

    name: str | None = None
    monthly_fee_cents: _Cents = 0
    minimum_cents: _Cents = 0
    included_cents: _Cents = 0
    usage_discount_percent: _Percent = Decimal(0)


class NewDiscount(_Part):
    """A discount that is added: of a user, of all users of a plan, or of a user while on a plan."""

    name: str
    percent: _Percent = Decimal(0)
    amount_cents: _Cents = 0
    plan_id: str | None = None
    user_id: str | None = None
    starts_at: _Moment | None = None
    ends_at: _Moment | None = None

    @model_validator(mode="after")
    def _has_a_meaning(self) -> "NewDiscount":
        if self.plan_id is None and self.user_id is None:
            raise ValueError("is for no user and no plan; give its user_id, or its plan_id")
        if not self.percent and not self.amount_cents:
            raise ValueError("takes nothing off; give its percent, or its amount_cents")
        if self.starts_at and self.ends_at and self.ends_at <= self.starts_at:
            raise ValueError("ends before it starts; correct starts_at or ends_at")
        return self


class NewCard(_Part):
    """A row of the rate cards that replace the frozen ones; see `CardRow`."""

    plan_id: str | None = None
    item: str | None = None
    model: str
    unit: str
    up_to: str | None = None
    unit_price_cents: str
    package_size: str | None = None
    valid_from: str | None = None


class NewPricing(_Part):
    """Other prices: plans and rate cards that replace frozen ones, who is on which plan, discounts, a level.

    Without `rate_cards` the frozen cards stay; with an empty list each call has its stored cost.
    """

    plans: dict[str, NewPlan] = {}
    rate_cards: tuple[NewCard, ...] | None = None
    discounts: tuple[NewDiscount, ...] = ()
    everyone: str | None = None
    move: dict[str, str] = {}
    usage_percent: Annotated[Decimal, _percent_up_to(_MOST_USAGE_PERCENT)] = Decimal(100)

    @model_validator(mode="after")
    def _moves_once(self) -> "NewPricing":
        if self.everyone is not None and self.move:
            raise ValueError("everyone and move exclude each other; leave one of them out")
        return self


def read_pricing(text: str, name: str) -> NewPricing:
    """Read other prices from YAML. Numbers are taken from their digits, never as floats.

    Args:
        text: The YAML.
        name: Of the file, for messages.

    Raises:
        UsageError: it is no YAML, has an unknown or repeated key, or an amount that cannot be read.
    """
    remedy = "Correct it as docs/pricing.md describes the file, and simulate again."
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        given = _plain(node) if node is not None else None
    except yaml.YAMLError as error:
        raise UsageError(f"{name} is no YAML: {' '.join(str(error).split())}.", remedy=remedy) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name} cannot be read: {error}.", remedy=remedy) from error
    if not isinstance(given, dict):
        raise UsageError(
            f"{name} has no keys.", remedy="Start with plans:, as docs/pricing.md describes the file."
        )
    try:
        return NewPricing.model_validate(given)
    except ValidationError as error:
        raise UsageError(f"{name}: {'; '.join(_problems(error))}.", remedy=remedy) from error


def require_known(pricing: NewPricing, terms: Mapping[str, Terms], users: Collection[str], name: str) -> None:
    """Refuse other prices that name a plan or a user whom the months do not have.

    `terms` are the frozen plans of all months by id, `users` all their users.

    Raises:
        UsageError: naming the plan or the user.
    """
    known = pricing.plans.keys() | terms.keys()
    targets = {pricing.everyone, *pricing.move.values()} - {None}
    plans = (
        *(("plans", plan) for plan in pricing.plans if plan not in terms and plan not in targets),
        *(("everyone", plan) for plan in (pricing.everyone,) if plan is not None and plan not in known),
        *(("move", plan) for plan in pricing.move if plan not in terms),
        *(("move", plan) for plan in pricing.move.values() if plan not in known),
        *(
            (key, one.plan_id)
            for key, given in (("discounts", pricing.discounts), ("rate_cards", pricing.rate_cards or ()))
            for one in given
            if one.plan_id and one.plan_id not in known
        ),
    )
    if plans:
        named = ", ".join(f"{plan!r} in {key}" for key, plan in plans[:_NAMED])
        frozen = ", ".join(sorted(terms)[: 4 * _NAMED]) or "none"
        raise UsageError(
            f"{name} names a plan on which nobody was or would be: {named}.",
            remedy=f"Correct its id, or move users to it. The months' frozen plans: {frozen}.",
        )
    unknown = [each.user_id for each in pricing.discounts if each.user_id and each.user_id not in users]
    if unknown:
        raise UsageError(
            f"{name} has a discount for {unknown[0]!r}, who has neither usage nor a plan in these months.",
            remedy="Correct its user_id.",
        )


def terms_of(*values: Any) -> Terms:
    """Return what a plan says: id, name, allowance, fee, minimum, percent off usage, and currency."""
    return dict(zip(_OF_TERMS, values, strict=True))


def frozen_terms(table: pa.Table) -> dict[str, Terms]:
    """Return what each plan in a table in `PLANS_SCHEMA` says."""
    of_plans = table.filter(pc.equal(table["kind"], PLAN)).select(_OF_TERMS)
    return {row["plan_id"]: row for row in of_plans.group_by(list(_OF_TERMS)).aggregate([]).to_pylist()}


def reprice(
    month: Month, table: pa.Table, pricing: NewPricing, terms: Mapping[str, Terms], users: Iterable[str]
) -> pa.Table:
    """Return a month's frozen plans and discounts under other prices, as a table of the same form.

    Who moves to another plan keeps the time on it. With `everyone`, who was on no plan in the month is on
    that plan for all of it.

    Args:
        month: The month.
        table: What was frozen with it, in `PLANS_SCHEMA`.
        pricing: The other prices.
        terms: What plans say where neither the table nor the pricing has them.
        users: Who used something in the month.
    """
    terms = _new_terms(pricing, {**terms, **frozen_terms(table)})
    rows = table.to_pylist()
    of_plans = [row for row in rows if row["kind"] == PLAN]
    for row in of_plans:
        target = pricing.everyone or pricing.move.get(row["plan_id"], row["plan_id"])
        # A plan that is neither moved nor named stays as it was frozen for this user.
        if target != row["plan_id"] or target in pricing.plans:
            row.update(terms[target])
    if pricing.everyone is not None:
        on_plan = {row["user_id"] for row in of_plans if _touches(month, row["starts_at"], row["ends_at"])}
        whole_month = {"kind": PLAN, "ends_at": month.end, **terms[pricing.everyone]}
        rows += [{**whole_month, "user_id": user} for user in users if user not in on_plan]
    rows += [
        {**each.model_dump(), "kind": DISCOUNT, "percent": f"{each.percent:f}"} for each in pricing.discounts
    ]
    return pa.Table.from_pylist(rows, schema=PLANS_SCHEMA)


def _new_terms(pricing: NewPricing, frozen: Mapping[str, Terms]) -> dict[str, Terms]:
    """Return what each plan says under the other prices; a frozen plan keeps its currency."""
    new = {
        plan_id: terms_of(
            *(plan_id, plan.name or plan_id, plan.included_cents, plan.monthly_fee_cents),
            *(plan.minimum_cents, f"{plan.usage_discount_percent:f}"),
            frozen[plan_id]["currency"] if plan_id in frozen else None,
        )
        for plan_id, plan in pricing.plans.items()
    }
    return {**frozen, **new}


def _touches(month: Month, starts_at: datetime | None, ends_at: datetime | None) -> bool:
    return (starts_at is None or starts_at < month.end) and (ends_at is None or ends_at > month.start)


def _plain(node: yaml.Node, known: dict[int, Any] | None = None) -> Any:
    """Return a node as dictionaries, lists and texts; None where nothing is written.

    What an alias repeats is read once (`known`): aliases of aliases would take for ever.
    """
    known = {} if known is None else known
    if isinstance(node, yaml.ScalarNode):
        return None if node.style is None and node.value.lower() in _NOTHING else node.value
    if id(node) in known:
        return known[id(node)]
    if isinstance(node, yaml.SequenceNode):
        return known.setdefault(id(node), [_plain(each, known) for each in node.value])
    found: dict[str, Any] = {}
    for key, value in node.value:
        name = str(key.value)
        if name in found:
            raise ValueError(f"the key {name} stands twice, again in line {key.start_mark.line + 1}")
        found[name] = _plain(value, known)
    return known.setdefault(id(node), found)


def _problems(error: ValidationError) -> Iterator[str]:
    for each in error.errors()[:_NAMED]:
        where = ".".join(str(part) for part in each["loc"])
        if each["type"] == "extra_forbidden":
            yield f"{where} is an unknown key"
        elif each["type"] == "missing":
            yield f"{where} is missing"
        elif each["type"] in {"model_type", "dict_type"}:
            yield f"{where} does not map names to values"
        else:
            given = f" {each['input']!r}" if isinstance(each["input"], str) else ""
            yield f"{where}{given} {each['msg'].removeprefix('Value error, ')}".strip()
