"""The usual bill: written in another way than the others, and the same to the letter."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from spell_billing.core.drafting import Account, draft_invoice
from spell_billing.core.money import MAX_AMOUNT_CENTS
from spell_billing.core.month import Month
from spell_billing.ledger.rows import DRAFT_COLUMNS, DraftRow, content_of, draft_row
from spell_billing.ledger.usual_bills import usual_bill

OCTOBER = Month(2026, 10)
ACCOUNT = Account("cus_1")
TEXTS = st.sampled_from([None, "", "send", "30", "PO 7"])
ACCOUNTS = st.none() | st.builds(
    Account,
    st.sampled_from([None, "", "cus_1", "cus_1", "cus_1", 'cus "1"', "cus\\1", "cus_1\n", "cus_é"]),
    st.sampled_from(["usd", "eur", "jpy", "chf", "bhd", "isk", "idr", "USD", "", "us"]),
    st.sampled_from([None, "pro"]),
    st.sampled_from([None, "Pro", ""]),
    st.sampled_from([0, 0, 0, 1, 500]),
    *[st.none() | TEXTS] * 4,
)
CENTS = st.decimals(-(10**13), 10**13, places=6) | st.sampled_from(
    [Decimal(text) for text in ("0", "0.4", "0.5", "-0.5", "99999999.4", "99999999.5", "1e9", "1E+2", "2.50")]
)


def usual(user_id: str, calls: int, cents: str, account: Account | None) -> DraftRow | None:
    known = (None,) * len(Account.__struct_fields__) if account is None else structs.astuple(account)
    return usual_bill(OCTOBER, (user_id, calls, cents, account is not None, *known))


@given(
    user_id=st.text(),
    calls=st.integers(0, 10**7) | st.integers(2**63 - 2, 2**63),
    usage_cents=CENTS,
    account=ACCOUNTS | st.just(ACCOUNT),
)
def test_a_usual_bill_is_what_drafting_makes_of_it(
    user_id: str, calls: int, usage_cents: Decimal, account: Account | None
) -> None:
    found = usual(user_id, calls, f"{usage_cents:f}", account)
    if found is not None:
        draft = draft_invoice(OCTOBER, user_id, calls=calls, usage_cents=usage_cents, account=account)
        assert found == draft_row(draft)


def test_a_row_has_all_columns_that_a_draft_decides() -> None:
    draft = draft_invoice(OCTOBER, "user-1", calls=3, usage_cents=Decimal(12), account=ACCOUNT)
    content = content_of(draft)
    assert {"user_id", *content} == set(DRAFT_COLUMNS)
    assert draft_row(draft)[DRAFT_COLUMNS.index("lines_hash")] == content["lines_hash"]


def test_a_charge_to_an_account_with_the_usual_terms_is_a_usual_bill() -> None:
    for currency in ("usd", "jpy", "chf"):
        account = structs.replace(ACCOUNT, currency=currency, plan_id="basic", plan_name="Basic")
        found = usual("user-1", 3, "12.5", account)
        assert found is not None
        bill = dict(zip(DRAFT_COLUMNS, found, strict=True))
        assert (bill["state"], bill["total_cents"]) == ("planned", 13)


@pytest.mark.parametrize(
    "other",
    [
        {"stripe_customer_id": None},
        {"stripe_customer_id": ""},
        {"currency": "bhd"},
        {"currency": "USD"},
        {"plan_name": ""},
        {"included_cents": 1},
        {"collection": "send"},
        {"net_days": "30"},
        {"po_number": "PO 7"},
        {"footer": "Thank you"},
    ],
)
def test_any_other_account_has_no_usual_bill(other: dict[str, object]) -> None:
    assert usual("user-1", 3, "12", structs.replace(ACCOUNT, **other)) is None


@pytest.mark.parametrize("cents", ["0", "0.49", "-5", str(MAX_AMOUNT_CENTS + 1)])
def test_what_cannot_be_charged_is_no_usual_bill(cents: str) -> None:
    assert usual("user-1", 3, cents, ACCOUNT) is None


def test_more_calls_than_the_ledger_holds_are_no_usual_bill() -> None:
    assert usual("user-1", 2**63, "12", ACCOUNT) is None
