"""Columns, each with a comment that PostgreSQL keeps and docs/ledger.md shows; comments of many tables."""

from typing import Any

import sqlalchemy as sa

from spell_billing.ledger.column_types import BigId

MONTH = "The month that is billed, as `2026-10`."
USER = "The platform's user."
GENERATION = "Counts the user's bills of the month: above 1 where an earlier invoice was voided."
CURRENCY = "Of all amounts of the row: three lower-case letters, as `usd`."
ACTOR = "Who did it: a run, a sensor, a person with the machine or address, `secret` or a session."
RUN = "The Dagster run; empty outside of one."
INVOICE = "Stripe's id of the invoice, `in_...`."
REQUEST = "Stripe's id of the request that did it, `req_...`."
WAY = "How it came in: as `webhook`, `stripe events` or `sweep`."
WHY = "Why, in the person's words."


def number() -> sa.Column[int]:
    """Return the column that numbers rows."""
    return key("id", BigId, "Rises with each row.", autoincrement=True)


def key(name: str, kind: Any, comment: str, **more: Any) -> sa.Column[Any]:
    """Return a column of the primary key."""
    return sa.Column(name, kind, primary_key=True, comment=comment, **more)


def required(name: str, kind: Any, comment: str, **more: Any) -> sa.Column[Any]:
    """Return a column that is never null."""
    return sa.Column(name, kind, nullable=False, comment=comment, **more)


def optional(name: str, kind: Any, comment: str) -> sa.Column[Any]:
    """Return a column that may be null."""
    return sa.Column(name, kind, comment=comment)
