"""What other prices would have charged for frozen months, through the command line; nothing is written."""

import csv
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import time_machine
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spell_billing.cli import main
from spell_billing.core.errors import IntegrityError, MonthError, UsageError
from spell_billing.core.month import Month
from spell_billing.reporting.new_pricing import read_pricing
from spell_billing.reporting.simulate import FROM_BILLS, FROM_BOTH, FROM_PLANS, Simulation, simulate
from spell_billing.reporting.simulation_chart import draw
from spell_billing_tests.proof.small_platform import APRIL, MARCH, SmallPlatform
from spell_billing_tests.proof.test_plans import with_plans

DOCS = Path(__file__).parents[2] / "docs" / "pricing.md"
ADA, BOB, CYD, DAN = "ada", "bob", "=cyd", "dan"
PRO = {"plan_id": "pro", "name": "Pro", "included_cents": 1_000}
SAME_AS_FROZEN = """
plans:
  pro:
    name: Pro
    monthly_fee_cents: 2000
    minimum_cents: 3500
    included_cents: 1000
    usage_discount_percent: 12.5
"""


WRONG = [
    ("", "has no keys"),
    ("plans: [", "is no YAML"),
    ("prices: {}", "prices is an unknown key"),
    ("plans: {pro: {fee: 1}}", "plans.pro.fee is an unknown key"),
    ("plans: {pro: {monthly_fee_cents: 12.5}}", "plans.pro.monthly_fee_cents '12.5' must be a whole number"),
    ("plans: {pro: {minimum_cents: -1}}", "plans.pro.minimum_cents '-1' must be a whole number"),
    ("plans: {pro: }", "plans.pro does not map names to values"),
    # Each line names the one before nine times: written out, more than the machine can hold.
    (
        "\n".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}' if n else '1'] * 9)}]" for n in range(20)),
        "a1 is an unknown key",
    ),
    ("plans: [pro]", "plans does not map names to values"),
    ("plans: {pro: {}, pro: {}}", "the key pro stands twice"),
    ("usage_percent: .nan", "usage_percent '.nan' must be a percentage"),
    ("plans: {por: {}}", "'por' in plans.*Correct its id.*free, pro"),
    ("move: {gold: pro}", "'gold' in move"),
    ("move: {free: gold}", "'gold' in move"),
    ("everyone: gold", "'gold' in everyone"),
    ("everyone: pro\nmove: {free: pro}", "exclude each other"),
    ("discounts: [{name: Deal, percent: 5}]", "is for no user and no plan"),
    ("discounts: [{name: Deal, percent: 5, plan_id: gold}]", "'gold' in discounts"),
    ("discounts: [{name: Deal, percent: 5, user_id: eve}]", "a discount for 'eve'"),
    ("discounts: [{name: Deal, user_id: ada}]", "takes nothing off"),
    (
        "discounts: [{name: Deal, percent: 5, user_id: ada, starts_at: soon}]",
        "starts_at 'soon' must be a time",
    ),
]


@pytest.fixture
def months(platform: SmallPlatform) -> SmallPlatform:
    """Give a platform with March and April frozen: users on Pro (one from mid-April), on Free, on none."""
    return frozen_months(platform)


@pytest.fixture
def light_months(light_platform: SmallPlatform) -> SmallPlatform:
    """Give the same on SQLite."""
    return frozen_months(light_platform)


def frozen_months(platform: SmallPlatform) -> SmallPlatform:
    columns = ("monthly_fee_cents", "minimum_cents", "usage_discount_percent")
    platform.sql(
        *(f"ALTER TABLE billing_plans ADD COLUMN {name} numeric" for name in columns),
        "CREATE TABLE plan_subscriptions (user_id text, plan_id text, starts_at text, ends_at text)",
        f"INSERT INTO plan_subscriptions VALUES ('{CYD}', 'pro', '2025-04-16', NULL)",
    )
    fees = {"monthly_fee_cents": 2_000, "minimum_cents": 3_500, "usage_discount_percent": 12.5}
    platform.source.plans([{**PRO, **fees}, {"plan_id": "free", "name": "Free", "included_cents": 300}])
    platform.accounts(ADA, plan_id="pro")
    platform.accounts(BOB, CYD)
    platform.accounts(DAN, plan_id="free")
    platform.calls(MARCH, (ADA, 5_000), (BOB, 700), (DAN, 200))
    platform.bill(MARCH)
    platform.calls(APRIL, (BOB, 900), (CYD, 100))
    platform.draft(APRIL)
    return platform


def simulated(platform: SmallPlatform, text: str, last: Month = APRIL) -> Simulation:
    with platform.ledger() as ledger:
        return simulate(
            ledger, platform.store, MARCH, last, pricing=read_pricing(text, "new.yaml"), name="new.yaml"
        )


def by(found: Simulation) -> dict[str, int]:
    return {each.user_id: each.by_cents for each in found.users if each.by_cents}


def run(platform: SmallPlatform, pricing: Path, *options: str, last: str = "2025-04") -> Any:
    environment = {"DATABASE_URL": platform.url, "SPELL_BILLING_USAGE_STORE": str(platform.store_path)}
    arguments = ["simulate", "--from", "2025-03", "--to", last, "--pricing", str(pricing), *options]
    return CliRunner().invoke(main, arguments, env=environment)


def everything(platform: SmallPlatform) -> tuple[Any, ...]:
    """Give all that is kept: the ledger's rows, and every file of the store."""
    connection = platform.source.connect()
    try:
        rows = [
            connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
            for table in ("ledger_invoices", "ledger_months", "ledger_audit")
        ]
    finally:
        connection.close()
    files = {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in platform.store_path.rglob("*")
        if path.is_file()
    }
    return rows, files, len(platform.double.requests)


@pytest.mark.both_databases
def test_the_command_says_who_would_have_paid_more_and_writes_nothing(
    months: SmallPlatform, tmp_path: Path
) -> None:
    pricing, table, chart = tmp_path / "new.yaml", tmp_path / "users.csv", tmp_path / "chart.svg"
    page = DOCS.read_text()
    section = page.partition("\n## What if")[2].partition("\n### The file")[2]
    example, _of_cards = re.findall(r"```yaml\n(.+?)```", section, re.DOTALL)
    pricing.write_text(example)
    before = everything(months)

    told = run(months, pricing, "--csv", str(table), "--chart", str(chart))
    found = json.loads(run(months, pricing, "--json").stdout)

    assert told.exit_code == 0, told.output
    assert everything(months) == before
    # docs/pricing.md has the same users. March: Ada 2000 + 4000 - 500 before, 2500 + 4000 after; Bob 700;
    # Dan 200 - 200, then 100 + 200.
    # April: Ada 2000 + 1500 to the minimum, then 2500; Cyd half of it; Bob 900, then 10 % off; Dan then 100.
    assert [
        (each["month"], each["before_from"], one["before_cents"], one["after_cents"], one["users"])
        for each in found["months"]
        for one in each["figures"]
    ] == [
        ("2025-03", FROM_PLANS, 5_500 + 700, 6_500 + 700 + 300, 3),
        ("2025-04", FROM_PLANS, 3_500 + 900 + 1_750, 2_500 + 810 + 1_250 + 100, 4),
    ]
    (in_all,) = found["in_all"]
    assert (in_all["before_cents"], in_all["after_cents"]) == (12_350, 12_160)
    assert "| in all | 123.50 | 121.60 | -1.90 |" in page
    assert (in_all["p50_cents"], in_all["p95_cents"]) == (-90, 400)
    assert (in_all["more"], in_all["less"], in_all["same"]) == (
        {"users": 1, "by_cents": 400},
        {"users": 2, "by_cents": -590},
        {"users": 1, "by_cents": 0},
    )
    assert [(each["user_id"], each["by_cents"]) for each in found["largest"]] == [
        (CYD, -500),
        (DAN, 400),
        (BOB, -90),
    ]
    assert "USD: pay more: 1 user, $4.00; pay less: 2 users, $5.90; pay the same: 1 user." in told.output
    with table.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["user"] for row in rows] == ["'=cyd", DAN, BOB, ADA], "no cell is a formula"
    drawn = chart.read_text()
    assert drawn.startswith("<svg")
    assert "$75.00" in drawn
    assert "<script" not in drawn


@pytest.mark.parametrize("option", ["--csv", "--chart"])
def test_a_file_that_cannot_be_written_is_named(
    light_months: SmallPlatform, tmp_path: Path, option: str
) -> None:
    pricing, nowhere = tmp_path / "new.yaml", tmp_path / "none" / "file"
    pricing.write_text(SAME_AS_FROZEN)

    told = run(light_months, pricing, option, str(nowhere))

    assert told.exit_code == 1
    assert f"Error: {nowhere} cannot be written to: " in told.output
    assert "Name a file in a folder that is there" in told.output


def test_the_chart_is_as_wide_as_its_title(light_months: SmallPlatform) -> None:
    drawn = draw(simulated(light_months, SAME_AS_FROZEN))

    found = re.search(r'width="(\d+)".*class="title"[^>]*>([^<]+)<', drawn, re.DOTALL)
    assert found
    longest = len(found[2].replace("March 2025 to April", "September 2025 to September"))
    assert int(found[1]) >= 16 + 9.5 * longest, "9.5 pixels a letter in a wide font"


def test_before_is_what_the_bills_of_the_month_charge(light_months: SmallPlatform) -> None:
    found = simulated(light_months, SAME_AS_FROZEN, MARCH)

    before = {each.user_id: each.before_cents for each in found.users}
    assert before == {user: light_months.bill_of(MARCH, user).total_cents for user in (ADA, BOB, DAN)}


def test_whatever_the_prices_they_are_rated_by_the_very_rules_of_billing(light_months: SmallPlatform) -> None:
    @settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(raised=st.integers(0, 10**7), level=st.integers(0, 10_000))
    def holds(raised: int, level: int) -> None:
        assert by(simulated(light_months, SAME_AS_FROZEN)) == {}, "the same prices change nothing"
        dearer = f"plans: {{pro: {{monthly_fee_cents: {2_000 + raised}, included_cents: 1000}}}}"
        base = simulated(light_months, "plans: {pro: {monthly_fee_cents: 2000, included_cents: 1000}}", MARCH)
        more = simulated(light_months, dearer, MARCH)
        for old, new in zip(base.users, more.users, strict=True):
            assert new.after_cents - old.after_cents == (raised if old.user_id == ADA else 0)
        scaled = simulated(light_months, f"usage_percent: {level / 100:.2f}", MARCH)
        (bob,) = (each for each in scaled.users if each.user_id == BOB)
        assert bob.after_cents == (700 * level + 5_000) // 10_000

    holds()


def test_everyone_on_one_plan_keeps_the_time_of_subscriptions(light_months: SmallPlatform) -> None:
    found = simulated(light_months, "plans: {all: {monthly_fee_cents: 3000}}\neveryone: all\n")

    after = {each.user_id: each.after_cents for each in found.users}
    assert after == {
        ADA: 3_000 + 5_000 + 3_000,
        BOB: 3_000 + 700 + 3_000 + 900,
        CYD: 1_500 + 100,
        DAN: 3_000 + 200 + 3_000,
    }


def test_before_is_the_bill_of_a_user_whose_plan_did_not_exist_at_the_freeze(
    light_platform: SmallPlatform,
) -> None:
    platform = with_plans(light_platform)
    platform.accounts(ADA, plan_id="late")
    platform.accounts(BOB, plan_id="pro")
    platform.sql(f"INSERT INTO billing_discounts VALUES ('Half', '{ADA}', NULL, 50, NULL, NULL, NULL)")
    platform.calls(MARCH, (ADA, 1_010), (BOB, 500))
    platform.bill(MARCH)
    platform.source.plans(
        [{"plan_id": "late", "included_cents": 10, "monthly_fee_cents": 700, "usage_discount_percent": 12.5}]
    )
    platform.bill(MARCH)
    # 700 and 1,000 less an eighth, and half of that.
    assert platform.bill_of(MARCH, ADA).total_cents == 787

    found = simulated(platform, "usage_percent: 100", last=MARCH)

    assert {each.user_id: each.before_cents for each in found.users}[ADA] == 787
    assert by(found) == {}
    assert [each.before_from for each in found.months] == [FROM_BOTH]
    cheaper = simulated(platform, "plans: {late: {monthly_fee_cents: 0}}", last=MARCH)
    assert by(cheaper)[ADA] == 505 - 787


def test_months_frozen_without_plans_are_rated_with_the_allowances_of_their_bills(
    light_platform: SmallPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spell_billing.usage.adapter.write_plans", lambda *_: None)
    light_platform.source.plans([PRO])
    light_platform.accounts(ADA, plan_id="pro")
    light_platform.accounts(BOB, currency="eur")
    light_platform.calls(MARCH, (ADA, 1_500), (BOB, 700))
    light_platform.bill(MARCH)
    light_platform.source.execute("UPDATE billing_plans SET included_cents = 0")

    found = simulated(light_platform, "plans: {pro: {included_cents: 1200}}", MARCH)

    assert [each.before_from for each in found.months] == [FROM_BILLS]
    assert [(each.user_id, each.currency, each.before_cents, each.after_cents) for each in found.users] == [
        (ADA, "usd", 500, 300),
        (BOB, "eur", 700, 700),
    ]


def test_what_the_file_says_wrong_is_named(light_months: SmallPlatform) -> None:
    for text, named in WRONG:
        with pytest.raises(UsageError, match=f"(?s)new.yaml.*{named}") as refused:
            simulated(light_months, text)
        assert refused.value.remedy


def test_a_month_that_is_not_frozen_here_and_altered_plans_are_refused(
    light_months: SmallPlatform, tmp_path: Path
) -> None:
    pricing = tmp_path / "new.yaml"
    pricing.write_text(SAME_AS_FROZEN)

    refused = run(light_months, pricing, last="2025-06")

    assert refused.exit_code == 1
    assert "There is no frozen usage of 2025-05, 2025-06 on this machine. Choose months" in refused.output
    with time_machine.travel(APRIL.next().start, tick=True):
        still_open = run(light_months, pricing, last="2025-05")
    assert still_open.exit_code != 0
    assert (
        "2025-05 is not over yet, so its usage is not frozen. Simulate months up to 2025-04"
        in still_open.output
    )
    with pytest.raises(MonthError, match="2025-02 is before 2025-03"):
        simulated(light_months, SAME_AS_FROZEN, MARCH.previous())
    (plans,) = (light_months.store_path / "2025-04").rglob("plans.parquet")
    plans.write_bytes(plans.read_bytes() + b" ")
    with pytest.raises(IntegrityError, match=r"plans\.parquet is not what was frozen"):
        simulated(light_months, SAME_AS_FROZEN)
