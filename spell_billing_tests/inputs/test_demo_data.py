from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text

from spell_billing.core.errors import UsageError
from spell_billing.core.month import Month
from spell_billing.demo.data import UNKNOWN_CUSTOMER_ID, DemoSummary, seed, stripe_customers

NOW = datetime(2026, 11, 22, 14, 0, tzinfo=UTC)
USERS = 80


@pytest.fixture
def summary(engine: Engine) -> DemoSummary:
    return seed(engine, now=NOW, users=USERS)


def rows(engine: Engine, query: str) -> Sequence[Any]:
    with engine.connect() as connection:
        return connection.execute(text(query)).all()


def usage(engine: Engine) -> list[tuple[str, int, datetime]]:
    found = rows(engine, "SELECT user_id, cost_cents, created_at FROM usage_counters ORDER BY id")
    # SQLite gives text in UTC without a zone, PostgreSQL an aware datetime.
    times = [datetime.fromisoformat(str(at)) for _, _, at in found]
    aware = [at if at.tzinfo else at.replace(tzinfo=UTC) for at in times]
    return [(user, cents, at) for (user, cents, _), at in zip(found, aware, strict=True)]


def test_the_summary_tells_what_the_tables_hold(engine: Engine, summary: DemoSummary) -> None:
    found = usage(engine)
    cents: dict[Month, int] = {}
    for _, cost, at in found:
        cents[Month.containing(at)] = cents.get(Month.containing(at), 0) + cost

    assert cents == summary.cents_by_month
    assert len(found) == summary.rows
    assert len({user for user, _, _ in found}) == summary.users == USERS


def test_the_closed_months_before_now_are_filled_and_the_open_one_up_to_now(
    engine: Engine, summary: DemoSummary
) -> None:
    times = [at for _, _, at in usage(engine)]

    assert [str(month) for month in summary.closed_months] == ["2026-07", "2026-08", "2026-09", "2026-10"]
    assert str(summary.open_month) == "2026-11"
    assert max(times) < NOW
    assert times == sorted(times), "ids must grow with time, as in a real table"
    assert {str(Month.containing(at)) for at in times} == {
        "2026-07",
        "2026-08",
        "2026-09",
        "2026-10",
        "2026-11",
    }


def test_every_case_that_billing_must_handle_occurs_in_each_closed_month(
    engine: Engine, summary: DemoSummary
) -> None:
    accounts = {
        row.user_id: row
        for row in rows(engine, "SELECT user_id, stripe_customer_id, plan_id FROM billing_accounts")
    }
    for month in summary.closed_months:
        totals: dict[str, int] = {}
        for user, cents, at in usage(engine):
            if month.start <= at < month.end:
                totals[user] = totals.get(user, 0) + cents
        customers = {
            user: row.stripe_customer_id for user, row in accounts.items() if totals.get(user, 0) > 0
        }
        assert len(totals.keys() - accounts.keys()) == 3, "without an account"
        assert sum(customer is None for customer in customers.values()) == 4, "without a customer"
        assert list(customers.values()).count(UNKNOWN_CUSTOMER_ID) == 1
        assert sum("declined" in str(customer) for customer in customers.values()) == 4
        assert sum(total == 0 for total in totals.values()) >= 12, "free calls only"
        assert any(accounts[user].plan_id for user in customers)
        negative = [total for total in totals.values() if total < 0]
        assert len(negative) == (1 if str(month) == "2026-09" else 0)


def test_usage_is_skewed_and_some_of_it_is_refunded(engine: Engine, summary: DemoSummary) -> None:
    found = usage(engine)
    calls = sorted(sum(name == user for name, _, _ in found) for user in {row[0] for row in found})

    assert sum(calls[-USERS // 10 :]) > summary.rows / 4, (
        "the top tenth makes more than a quarter of the calls"
    )
    assert any(cents < 0 for _, cents, _ in found)


@pytest.mark.both_databases
def test_stripe_is_to_have_every_customer_but_the_unknown_one(engine: Engine, summary: DemoSummary) -> None:
    customers = stripe_customers(engine)

    assert len(customers) == summary.users - 3 - 4 - 1
    assert UNKNOWN_CUSTOMER_ID not in {customer.customer_id for customer in customers}
    assert sum(customer.card == "declined" for customer in customers) == 4
    assert all(customer.email.endswith("@example.com") for customer in customers)


def test_an_account_names_a_plan_that_exists_or_none(engine: Engine, summary: DemoSummary) -> None:
    plans = dict(rows(engine, "SELECT plan_id, included_cents FROM billing_plans"))
    chosen = [plan for (plan,) in rows(engine, "SELECT plan_id FROM billing_accounts") if plan]

    assert plans == {"starter": 500, "team": 5_000}
    assert set(chosen) <= plans.keys()
    assert summary.users / 8 < len(chosen) < summary.users / 2


def test_the_same_arguments_give_the_same_rows_and_another_seed_gives_others(tmp_path: Path) -> None:
    found = []
    for name, number in (("a", 1), ("b", 1), ("c", 2)):
        engine = create_engine(f"sqlite:///{tmp_path / name}.db")
        seed(engine, now=NOW, users=USERS, seed=number)
        found.append(usage(engine))
        engine.dispose()

    assert found[0] == found[1]
    assert found[0] != found[2]


def test_tables_with_rows_are_refused_and_left_as_they_are(engine: Engine, summary: DemoSummary) -> None:
    with pytest.raises(UsageError, match="already has rows") as caught:
        seed(engine, now=NOW, users=USERS)

    assert "database of its own" in caught.value.remedy
    assert len(usage(engine)) == summary.rows


@pytest.mark.both_databases
def test_now_may_be_given_in_any_zone_and_at_the_first_instant_of_a_month(engine: Engine) -> None:
    now = datetime(2026, 11, 1, 2, 0, tzinfo=timezone(timedelta(hours=2)))

    summary = seed(engine, now=now, users=USERS, months=1)

    assert [str(month) for month in summary.closed_months] == ["2026-10"]
    assert summary.cents_by_month[Month(2026, 11)] == 0
    assert {str(Month.containing(at)) for _, _, at in usage(engine)} == {"2026-10"}
    assert any(cents < -100 for _, cents, _ in usage(engine)), "the negative month is the only closed one"


@pytest.mark.parametrize("arguments", [{"users": 10}, {"months": 0}, {"now": NOW.replace(tzinfo=None)}])
def test_senseless_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"at least|naive"):
        seed(create_engine("sqlite://"), **({"now": NOW} | arguments))
