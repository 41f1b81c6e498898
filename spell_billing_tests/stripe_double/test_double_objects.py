"""Stripe's own example objects pass the shapes that the double's answers are held to."""

import pytest

from spell_billing_tests.stripe_double.shapes import FIXTURES, require_shape

# Stripe's example of an event holds an object of a kind that is not described here.
EXAMPLES = sorted(FIXTURES.keys() - {"event", "account"})


@pytest.mark.parametrize("kind", EXAMPLES)
def test_stripes_own_example_has_the_shape(kind: str) -> None:
    # The example of an invoice is older than the field that its description requires.
    newer = {"amount_paid_off_stripe": 0} if kind == "invoice" else {}

    require_shape({**FIXTURES[kind], **newer})


def test_an_answer_without_a_required_field_or_with_one_of_our_own_is_refused() -> None:
    whole = {**FIXTURES["invoice"], "amount_paid_off_stripe": 0}
    lacking = {name: value for name, value in whole.items() if name != "amount_due"}
    invented = {**whole, "money": 1}

    with pytest.raises(AssertionError, match="amount_due"):
        require_shape(lacking)
    with pytest.raises(AssertionError, match="money"):
        require_shape(invented)
