"""The plans of a simulated month as far as its bills tell them, where they were not frozen with it."""

from decimal import Decimal
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from spell_billing.core.errors import UsageError
from spell_billing.core.money import plain
from spell_billing.core.month import Month
from spell_billing.core.pricing import USUAL_RATING, fraction_of, load_rating
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.schema import invoices
from spell_billing.reporting.new_pricing import terms_of
from spell_billing.usage.plan_book import PLAN, PlanBook


def read_bills(ledger: Ledger, month: Month) -> dict[str, sa.Row[Any]]:
    """Return each user's latest bill of the month."""
    names = ("user_id", "currency", "plan_id", "included_cents", "rating")
    query = sa.select(*(invoices.c[name] for name in names)).where(invoices.c.month == str(month))
    with ledger.reading() as connection:
        return {row.user_id: row for row in connection.execute(query.order_by(invoices.c.generation))}


def plans_since(month: Month, plans: pa.Table, bills: dict[str, sa.Row[Any]]) -> list[dict[str, Any]]:
    """Return the plans of accounts whose plan did not exist at the freeze, as their bills have them."""
    rows = []
    for user_id in sorted(PlanBook(month, plans).unknown & bills.keys()):
        bill = bills[user_id]
        rating = load_rating(bill.rating, bill.included_cents)
        percent = fraction_of(rating.usage_discount) * 100
        # Of subscriptions that came since, only shares of the month are known.
        if bill.plan_id and rating != USUAL_RATING and 10**9 % percent.denominator == 0:
            off = plain(Decimal(percent.numerator) / percent.denominator)
            rows.append(_row(bill, rating.included_cents, rating.fee_cents, rating.minimum_cents, off))
    return rows


def plans_of_bills(bills: dict[str, sa.Row[Any]]) -> list[dict[str, Any]]:
    """Return the plans of a month that was frozen without them: the allowance of each bill."""
    rows = []
    for user_id, bill in bills.items():
        if bill.rating is not None:
            raise UsageError(
                f"The bill of user {user_id} has fees or discounts of plans that the frozen month lacks.",
                remedy="Restore the month's directory in the usage store from a backup.",
            )
        if bill.plan_id is not None or bill.included_cents:
            rows.append(_row(bill, bill.included_cents, 0, 0, "0"))
    return rows


def _row(bill: sa.Row[Any], *amounts: int | str) -> dict[str, Any]:
    plan_id = bill.plan_id or ""
    return {"kind": PLAN, "user_id": bill.user_id, **terms_of(plan_id, plan_id, *amounts, None)}
