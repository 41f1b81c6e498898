"""The worked examples of docs/pricing.md are what the core says."""

import re
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from spell_billing.core.drafting import Account, draft_invoice
from spell_billing.core.fees import FeesCharged, FeesOf
from spell_billing.core.month import Month
from spell_billing.core.plans import Discount, PlanSpan, month_plan
from spell_billing.core.terms import Policy

PAGE = Path(__file__).parents[2] / "docs" / "pricing.md"
EXAMPLES: list[dict[str, Any]] = [
    example
    for text in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    if "lines" in (example := yaml.safe_load(text))
]


def midnights(given: dict[str, Any]) -> dict[str, Any]:
    """Give the fields with dates as the moments that they mean, and percentages exactly."""
    return {
        name: datetime(value.year, value.month, value.day, tzinfo=UTC)
        if isinstance(value, date)
        else Decimal(value)
        if name.endswith("percent")
        else value
        for name, value in given.items()
    }


def test_the_page_has_worked_examples() -> None:
    assert len(EXAMPLES) >= 4


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_worked_example_of_the_page_is_what_is_billed(example: dict[str, Any]) -> None:
    month = Month.parse(str(example["month"]))
    spans = [PlanSpan(**midnights(each)) for each in example["spans"]]
    discounts = [Discount(**midnights(each)) for each in example.get("discounts", ())]
    usage_cents = Decimal(example["usage_cents"])
    draft = draft_invoice(
        month,
        "user-1",
        calls=1 if usage_cents else 0,
        usage_cents=usage_cents,
        account=Account("cus_1"),
        plan=month_plan(month, spans, discounts),
        fees_charged=FeesCharged(FeesOf(charged_cents=example.get("fees_charged_before", 0))),
        policy=Policy(fees_in_advance=example.get("in_advance", False)),
    )

    assert [[line.kind, line.amount_cents] for line in draft.lines] == example["lines"]
    assert draft.total_cents == example["total_cents"]
