"""The terms of a bill: read from an account's text, kept with the bill, and in its fingerprint where set."""

import pytest

from spell_billing.core.lines import USAGE, Line, lines_hash
from spell_billing.core.outcomes import REMEDIES, Reason
from spell_billing.core.terms import USUAL_TERMS, Terms, dump_terms, load_terms, terms_of


@pytest.mark.parametrize(
    ("columns", "terms"),
    [
        ((None, None, None, None), USUAL_TERMS),
        (("charge", None, None, None), USUAL_TERMS),
        (("Charge", "-5", None, None), USUAL_TERMS),
        (("send", None, None, None), Terms("send", 30)),
        (("SEND", "0", None, None), Terms("send", 0)),
        (("send", "60.00", "PO 7", "Thank you"), Terms("send", 60, "PO 7", "Thank you")),
        ((None, None, "PO 7", None), Terms(po_number="PO 7")),
    ],
)
def test_columns_of_an_account_become_terms(columns: tuple[str | None, ...], terms: Terms) -> None:
    assert terms_of(*columns) == terms


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        (("post", None, None, None), Reason.UNKNOWN_COLLECTION),
        *(
            (("send", days, None, None), Reason.INVALID_NET_DAYS)
            for days in ("-1", "366", "14.5", "soon", "1e1", "9" * 400, "\u0663")
        ),
        (("send", None, "7" * 141, None), Reason.TEXT_TOO_LONG),
        ((None, None, None, "7" * 5001), Reason.TEXT_TOO_LONG),
    ],
)
def test_values_that_cannot_be_billed_are_a_reason_with_a_remedy(
    columns: tuple[str | None, ...], reason: Reason
) -> None:
    assert terms_of(*columns) is reason
    assert "account's" in REMEDIES[reason]


@pytest.mark.parametrize("terms", [USUAL_TERMS, Terms("send", 0), Terms("send", 30, 'PO "7"', "a\nb")])
def test_terms_are_kept_whole(terms: Terms) -> None:
    assert load_terms(dump_terms(terms)) == terms


def test_usual_terms_leave_a_bill_and_its_fingerprint_as_they_were() -> None:
    content = ("cus_1", "usd", "text", [Line(USAGE, "text", 5, "2026-10")])

    assert dump_terms(USUAL_TERMS) is None
    assert lines_hash(*content, dump_terms(USUAL_TERMS)) == lines_hash(*content)
    hashes = {lines_hash(*content, dump_terms(Terms("send", days))) for days in (14, 30)}
    assert len(hashes | {lines_hash(*content)}) == 3
