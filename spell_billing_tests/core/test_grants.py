"""Grants pay what is due as far as they reach, in order, for months that begin before they expire."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from spell_billing.core.grants import GRANTED, PAID, Grant, paid_by_grants
from spell_billing.core.month import Month

OCTOBER = Month(2026, 10)


def grant(
    grant_id: str, currency: str, cents: int, day: date, kind: str, *, later: timedelta = timedelta(0)
) -> Grant:
    return Grant(
        grant_id=grant_id,
        user_id="user-1",
        kind=kind,
        currency=currency,
        amount_cents=cents,
        expires_on=day,
        granted_at=datetime(2026, 1, 1, tzinfo=UTC) + later,
        reason="why",
    )


GRANTS = st.lists(
    st.builds(
        lambda number, currency, cents, day, kind: grant(
            f"g-{number}",
            currency,
            cents,
            date(2026, 9, 20) + timedelta(days=day),
            kind,
            later=timedelta(hours=number),
        ),
        st.integers(1, 10**6),
        st.sampled_from(["usd", "usd", "eur"]),
        st.integers(-5, 1000),
        st.integers(0, 90),
        st.sampled_from([GRANTED, PAID]),
    ),
    max_size=6,
    unique_by=lambda each: each.grant_id,
)


@given(grants=GRANTS, due_cents=st.integers(-500, 3000))
def test_grants_pay_what_is_due_as_far_as_they_reach_and_what_is_lost_first_goes_first(
    grants: list[Grant], due_cents: int
) -> None:
    lines = paid_by_grants(grants, OCTOBER, due_cents, "usd")

    known = {each.grant_id: each for each in grants}
    usable = [each for each in grants if each.currency == "usd" and each.expires_on > date(2026, 10, 1)]
    paid = -sum(line.amount_cents for line in lines)
    assert paid == min(max(0, due_cents), sum(max(0, each.left_cents) for each in usable))
    used = [known[str(line.grant_id)] for line in lines]
    assert len({each.grant_id for each in used}) == len(used)
    assert all(each in usable for each in used)
    for line, each in zip(lines, used, strict=True):
        assert 0 < -line.amount_cents <= each.left_cents
    for first, second in pairwise(used):
        assert (first.expires_on, first.kind == PAID) <= (second.expires_on, second.kind == PAID)
    # All but the last one are used up.
    assert all(
        -line.amount_cents == each.left_cents for line, each in list(zip(lines, used, strict=True))[:-1]
    )


def test_a_grant_that_expires_on_the_first_does_not_pay_for_that_month() -> None:
    for day, pays in ((date(2026, 10, 1), False), (date(2026, 10, 2), True)):
        given_ = grant("g", "usd", 100, day, GRANTED)
        assert bool(paid_by_grants([given_], OCTOBER, 50, "usd")) is pays
