"""Lines by item: they add up to the cent for any amounts, and the order of the items makes no difference."""

import re
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spell_billing.core.drafting import Account, draft_invoice
from spell_billing.core.errors import IntegrityError
from spell_billing.core.items import MOST_ITEM_LINES, OTHER, ItemUsage, item_name, split_usage
from spell_billing.core.lines import USAGE, shown_lines
from spell_billing.core.money import exact_sum, round_half_up
from spell_billing.core.month import Month
from spell_billing.core.terms import Policy

OCTOBER = Month(2026, 10)
NAMES = st.sampled_from(
    [f"/v{number}" for number in range(14)] + [OTHER, " /v1\n", "/v1\u202e", ""]
) | st.text(max_size=5)
CENTS = st.builds(
    lambda digits, places: Decimal(digits).scaleb(-places), st.integers(-(10**35), 10**35), st.integers(0, 18)
) | st.sampled_from([Decimal("0.5"), Decimal("-0.5"), Decimal("0.1"), Decimal(0)])
ITEMS = st.lists(st.builds(ItemUsage, NAMES, st.integers(1, 1000), CENTS), min_size=1, max_size=30)


@given(items=ITEMS, seed=st.randoms(use_true_random=False))
def test_lines_add_up_to_the_rounded_total_in_whatever_order_the_items_come(
    items: list[ItemUsage], seed: object
) -> None:
    calls, cents = sum(each.calls for each in items), exact_sum(*(each.usage_cents for each in items))

    found = split_usage("user-1", items, calls=calls, usage_cents=cents)

    assert sum(each.amount_cents for each in found) == round_half_up(cents)
    assert sum(each.usage.calls for each in found) == calls
    assert exact_sum(*(each.usage.usage_cents for each in found)) == cents
    assert all(
        exact_sum(Decimal(each.amount_cents), each.usage.usage_cents.copy_negate()).copy_abs() < 1
        for each in found
    )
    names = [each.usage.item for each in found]
    assert len(names) == len(set(names)) <= MOST_ITEM_LINES
    assert OTHER not in names[:-1]
    shuffled = list(items)
    seed.shuffle(shuffled)  # type: ignore[attr-defined]
    assert split_usage("user-1", shuffled, calls=calls, usage_cents=cents) == found


@given(text=st.text())
def test_an_item_is_shown_on_one_line_of_bounded_length(text: str) -> None:
    name = item_name(text)

    assert name
    assert name.isprintable()
    assert len(item_name(text * 300)) <= 200
    assert item_name(name) == name


def test_the_largest_items_have_a_line_and_the_rest_are_one() -> None:
    items = [ItemUsage(f"/v1/{number:02}", 1, Decimal(number)) for number in range(1, 13)]
    items += [ItemUsage(OTHER, 5, Decimal("0.4")), ItemUsage("/refunds", 2, Decimal(-40))]

    found = split_usage("user-1", items, calls=19, usage_cents=Decimal("38.4"))

    assert [(each.usage.item, each.amount_cents) for each in found] == [
        *((f"/v1/{number:02}", number) for number in range(12, 4, -1)),
        ("/refunds", -40),
        (OTHER, 10),
    ]


def test_items_that_are_not_the_usage_make_no_bill() -> None:
    with pytest.raises(
        IntegrityError, match=r"items of user user-1 add up to 1 calls of 5 cents.*2 calls of 5"
    ):
        split_usage("user-1", [ItemUsage("/a", 1, Decimal(5))], calls=2, usage_cents=Decimal(5))


def test_a_line_says_what_was_called_and_the_invoice_what_it_is_in_all() -> None:
    items = [ItemUsage("/v1/chat", 12, Decimal("340.4")), ItemUsage("a ($3.40)", 1, Decimal("0.5"))]
    account = Account("cus_1", "isk", included_cents=100)

    draft = draft_invoice(
        OCTOBER, "user-1", calls=13, usage_cents=Decimal("340.9"), account=account, items=items
    )

    assert draft.description == "Spell Platform API Usage - October 2026 (13 calls, 2.00 ISK)"
    assert [(line.description, line.amount_cents) for line in draft.lines[:2]] == [
        ("Spell Platform API Usage - October 2026 - /v1/chat (12 calls, 3.40 ISK)", 340),
        ("Spell Platform API Usage - October 2026 - a ($3.40) (1 calls, 0.01 ISK)", 1),
    ]
    assert sum(line.amount_cents for line in shown_lines(draft.lines, "isk")) == draft.total_cents == 200


@pytest.mark.parametrize(("policy", "lines"), [(Policy(), 2), (Policy("on"), 1), (Policy(discounts=True), 1)])
def test_an_item_below_zero_takes_no_tax_and_no_discount_away_from_the_others(
    policy: Policy, lines: int
) -> None:
    items = [ItemUsage("/a", 1, Decimal(500)), ItemUsage("/b", 1, Decimal(-100))]

    draft = draft_invoice(
        OCTOBER,
        "user-1",
        calls=2,
        usage_cents=Decimal(400),
        account=Account("cus_1"),
        items=items,
        policy=policy,
    )

    assert [line.kind for line in draft.lines] == [USAGE] * lines
    assert draft.total_cents == 400


def test_the_worked_example_of_the_documentation_is_what_is_charged() -> None:
    text = (Path(__file__).parents[2] / "docs" / "pricing.md").read_text(encoding="utf-8")
    row = r"^\| `?([/\w]+)`? \| (\d+) \| ([\d.]+) \| \d+ \| [\d. ]*\| (\d+) \|$"
    *rows, (total, calls, cents, charged) = re.findall(row, text, re.MULTILINE)
    items = [ItemUsage(name, int(number), Decimal(exact)) for name, number, exact, _ in rows]

    found = split_usage("user-1", items, calls=int(calls), usage_cents=Decimal(cents))

    assert (total, len(rows)) == ("total", 3)
    assert [str(each.amount_cents) for each in found] == [amount for *_, amount in rows]
    assert sum(each.amount_cents for each in found) == int(charged)
