"""What the assets refuse by themselves, launched together or alone: nothing reaches Stripe then."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spell_billing.core.lines import lines_hash, load_lines
from spell_billing.orchestration.build import build_defs
from spell_billing.orchestration.resources import StripeResource
from spell_billing.usage.aggregate import aggregate
from spell_billing.usage.user_usage import keep_user_usage

ASSETS = ("raw_usage", "user_usage", "invoice_drafts", "stripe_invoices")
NOON = "2025-03-15 12:00:00"


@pytest.fixture
def drafted(platform: Any) -> Any:
    """Give a platform whose March 2025 is drafted and not yet sent."""
    platform.accounts("user-0001", "user-0002")
    platform.calls("2025-03", ("user-0001", 100), ("user-0002", 200))
    assert platform.run("2025-03", ASSETS[:3]).success
    return platform


@pytest.mark.parametrize("asset", ASSETS)
def test_every_asset_alone_refuses_a_month_that_is_not_over_or_before_the_first(
    platform: Any, reason: Any, monkeypatch: pytest.MonkeyPatch, asset: str
) -> None:
    monkeypatch.setenv("SPELL_BILLING_FIRST_MONTH", "2025-02")

    future = platform.run("2099-01", [asset])
    before = platform.run("2025-01", [asset])
    nonsense = platform.run("2025-3", [asset])

    assert not future.success
    assert "2099-01 is not closed: it ends on 2099-01-31 at 24:00 UTC." in reason(future)
    assert not before.success
    assert "2025-01 precedes the first billed month, 2025-02." in reason(before)
    assert "'2025-3' is not a month" in reason(nonsense)
    assert platform.double.requests == []


def test_a_month_opens_for_billing_with_the_first_microsecond_after_it(
    platform: Any, reason: Any, clock: Any
) -> None:
    clock("2025-03-31T23:59:59.999999")
    still_open = platform.run("2025-03")
    clock("2025-04-01T00:00:00")
    closed = platform.run("2025-03")

    assert "2025-03 is not closed" in reason(still_open)
    assert closed.success


def test_a_launch_without_a_month_says_so(platform: Any, reason: Any) -> None:
    result = platform.run(None)

    assert not result.success
    assert "The run has no month. Launch one partition, as 2026-10-01." in reason(result)


def test_a_launch_that_sends_no_invoice_at_all_is_refused_by_the_name_of_its_setting(
    platform: Any, reason: Any
) -> None:
    platform.accounts("user-0001")
    platform.calls("2025-03", ("user-0001", 100))

    result = platform.run("2025-03", config={"ops": {"stripe_invoices": {"config": {"first": 0}}}})

    assert reason(result) == (
        "stripe_invoices: The run's configuration sets `first` of stripe_invoices to 0. "
        "Set it to 1 or more, or leave it out to send all invoices."
    )
    assert platform.double.requests == []


BAD_ON_BOTH = {
    "null user": ("NULL", "100", f"'{NOON}'", "user_id is missing"),
    "blank user": ("' '", "100", f"'{NOON}'", "user_id is blank"),
    "null cost": ("'user-0001'", "NULL", f"'{NOON}'", "cost_cents is missing"),
    "null time": ("'user-0001'", "100", "NULL", "created_at is missing"),
}
BAD_IN_SQLITE = {
    "fraction": ("'user-0001'", "1.5", f"'{NOON}'", "cost_cents is 1.5, not a whole number of cents"),
    "text": ("'user-0001'", "'NaN'", f"'{NOON}'", "cost_cents is 'NaN', not a whole number of cents"),
    "unreadable time": ("'user-0001'", "100", "'yesterday'", "created_at is 'yesterday', not an ISO 8601"),
}


def refuses_bad_row(platform: Any, reason: Any, values: tuple[str, str, str, str]) -> None:
    user, cost, time, problem = values
    platform.accounts("user-0001")
    platform.calls("2025-03", ("user-0001", 100))
    platform.source.execute(
        "INSERT INTO usage_counters (id, user_id, cost_cents, created_at) "
        f"VALUES (77, {user}, {cost}, {time})"
    )

    whole = platform.run("2025-03")
    alone = [platform.run("2025-03", [asset]) for asset in ASSETS]

    assert not whole.success
    assert "no_bad_rows: 1 row of usage_counters cannot be billed: id 77: " in reason(whole)
    assert problem in reason(whole)
    assert not alone[-1].success
    assert "stripe_invoices: 1 row of usage_counters cannot be billed: id 77: " in reason(alone[-1])
    assert platform.double.requests == []
    platform.source.execute("DELETE FROM usage_counters WHERE id = 77")
    assert platform.run("2025-03").success
    assert [each.total_cents for each in platform.invoices()] == [100]


@pytest.mark.parametrize("row", BAD_ON_BOTH)
def test_a_bad_row_stops_the_month_by_name_until_it_is_mended(
    make_platform: Any, database_url: str, reason: Any, row: str
) -> None:
    refuses_bad_row(make_platform(database_url, not_null=False), reason, BAD_ON_BOTH[row])


@pytest.mark.parametrize("row", BAD_IN_SQLITE)
def test_what_sqlite_stores_besides_whole_cents_and_times_stops_the_month(
    make_platform: Any, sqlite_url: str, reason: Any, row: str
) -> None:
    refuses_bad_row(make_platform(sqlite_url, not_null=False), reason, BAD_IN_SQLITE[row])


def test_a_nan_in_postgresql_stops_the_month(make_platform: Any, postgres_url: str, reason: Any) -> None:
    platform = make_platform(postgres_url, cost_cents="numeric")
    refuses_bad_row(platform, reason, ("'user-0001'", "'NaN'", f"'{NOON}'", "cost_cents is NaN"))


def test_invoices_alone_refuse_a_month_without_drafts(platform: Any, reason: Any) -> None:
    result = platform.run("2025-03", ["stripe_invoices"])

    assert "2025-03 has no drafts. Materialize invoice_drafts of the month first." in reason(result)
    assert platform.double.requests == []


@pytest.mark.parametrize(
    ("asset", "said"),
    [
        ("user_usage", "The usage of 2025-03 is not frozen yet."),
        ("invoice_drafts", "The usage of 2025-03 is not frozen yet."),
    ],
)
def test_an_asset_alone_names_what_must_come_first(platform: Any, reason: Any, asset: str, said: str) -> None:
    assert said in reason(platform.run("2025-03", [asset]))


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE ledger_invoices SET usage_cents = '101' WHERE user_id = 'user-0001'",
        "UPDATE ledger_invoices SET calls = 2 WHERE user_id = 'user-0001'",
        "DELETE FROM ledger_invoices WHERE user_id = 'user-0001'",
    ],
)
def test_invoices_alone_refuse_drafts_that_are_not_the_usage(
    drafted: Any, reason: Any, tampering: str
) -> None:
    drafted.source.execute(tampering)

    result = drafted.run("2025-03", ["stripe_invoices"])

    assert not result.success
    assert "2025-03: the drafts hold" in reason(result)
    assert drafted.double.requests == []


def test_invoices_alone_refuse_drafts_that_are_not_those_that_were_reviewed(
    drafted: Any, reason: Any
) -> None:
    bill = drafted.bills("2025-03")["user-0001"]
    agreeing = lines_hash("cus_user-0002", bill.currency, bill.description, load_lines(bill.lines))
    drafted.source.execute(
        f"UPDATE ledger_invoices SET stripe_customer_id = 'cus_user-0002', lines_hash = '{agreeing}' "
        "WHERE user_id = 'user-0001'"
    )

    refused = drafted.run("2025-03", ASSETS[3:])

    assert not refused.success
    assert "The bills of 2025-03 are not those that were reviewed. Nothing was sent." in reason(refused)
    assert drafted.double.writes == []


def test_invoices_alone_hold_a_bill_whose_account_changed_since_it_was_drafted(drafted: Any) -> None:
    drafted.double.add_customer("cus_new")
    drafted.source.execute(
        "UPDATE billing_accounts SET stripe_customer_id = 'cus_new' WHERE user_id = 'user-0002'"
    )

    assert drafted.run("2025-03", ["stripe_invoices"]).success

    assert drafted.bills("2025-03")["user-0002"].reason == "account_changed"
    assert [(each.customer, each.total_cents) for each in drafted.invoices()] == [("cus_user-0001", 100)]
    drafted.bill("2025-03")
    assert [(each.customer, each.total_cents) for each in drafted.invoices()] == [
        ("cus_user-0001", 100),
        ("cus_new", 200),
    ]


def test_invoices_alone_refuse_when_the_frozen_rows_were_altered(drafted: Any, reason: Any) -> None:
    frozen = drafted.store / "2025-03" / "v0001" / "rows.parquet"
    flip_a_byte(frozen)

    result = drafted.run("2025-03", ["stripe_invoices"])

    assert f"{frozen} is not what was frozen" in reason(result)
    assert drafted.double.requests == []


def test_altered_rows_are_never_aggregated(drafted: Any, reason: Any) -> None:
    """The same calls and cents on other users would pass every comparison of sums."""
    frozen = drafted.store / "2025-03" / "v0001" / "rows.parquet"
    table = pq.read_table(frozen)
    users = table["user_id"].to_pylist()[::-1]
    pq.write_table(table.set_column(1, table.schema.field(1), [users]), frozen)

    result = drafted.run("2025-03", ["user_usage"])

    assert "is not what was frozen" in reason(result)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ([("user-0001", 1, 60), ("user-0001", 0, 40), ("user-0002", 1, 200)], "3 users (repeated or out of"),
        ([("user-0002", 1, 200), ("user-0001", 1, 100)], "2 users (repeated or out of order), 2 calls, 300"),
        ([("user-0001", 1, 100), ("user-0002", 1, 199)], "2 users, 2 calls, 299 cents; rows: 2 calls, 300"),
        ([("user-0001", 2, 100), ("user-0002", 1, 200)], "2 users, 3 calls, 300 cents; rows: 2 calls, 300"),
        ([], "0 users, 0 calls, 0 cents; rows: 2 calls, 300 cents."),
    ],
    ids=["one_user_twice", "out_of_order", "a_cent_lost", "a_call_too_many", "nobody"],
)
def test_users_that_are_not_the_rows_fail_the_check_and_stop_the_month(
    drafted: Any, monkeypatch: pytest.MonkeyPatch, wrong: list[tuple[str, int, int]], told: str
) -> None:
    def aggregate_wrongly(*arguments: Any, **named: Any) -> Any:
        found = aggregate(*arguments, **named)
        schema = pq.read_schema(found.path)
        rows = [dict(zip(schema.names, row, strict=True)) for row in wrong]
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), found.path.with_name("wrong"))
        keep_user_usage(found.path.with_name("wrong"), found.path.parent)
        return found

    monkeypatch.setattr("spell_billing.orchestration.assets.user_usage.aggregate", aggregate_wrongly)
    result = drafted.run("2025-03")

    failed = [each for each in result.get_asset_check_evaluations() if not each.passed]
    assert [each.check_name for each in failed] == ["user_usage_equals_raw_usage"]
    assert told in failed[0].description
    assert not result.success
    assert drafted.double.requests == []


def test_users_that_were_altered_since_fail_the_check_and_are_not_drafted(
    drafted: Any, monkeypatch: pytest.MonkeyPatch, reason: Any
) -> None:
    """The same calls and cents, of each other."""

    def aggregate_then_alter(*arguments: Any, **named: Any) -> Any:
        found = aggregate(*arguments, **named)
        users = pq.read_table(found.path)
        exchanged = users["user_id"].to_pylist()[::-1]
        pq.write_table(users.set_column(0, users.schema.field(0), [exchanged]), found.path)
        return found

    monkeypatch.setattr("spell_billing.orchestration.assets.user_usage.aggregate", aggregate_then_alter)
    result = drafted.run("2025-03")

    failed = [each for each in result.get_asset_check_evaluations() if not each.passed]
    assert [each.check_name for each in failed] == ["user_usage_equals_raw_usage"]
    assert "user_usage.parquet is not what was aggregated" in failed[0].description
    assert drafted.double.requests == []

    assert "user_usage.parquet is not what was aggregated" in reason(
        drafted.run("2025-03", ["invoice_drafts"])
    )


def test_invoices_alone_refuse_a_manifest_that_cannot_be_read(drafted: Any, reason: Any) -> None:
    manifest = drafted.store / "2025-03" / "v0001" / "manifest.json"
    manifest.write_text(manifest.read_text(encoding="utf-8")[:-20], encoding="utf-8")

    result = drafted.run("2025-03", ["stripe_invoices"])

    assert str(manifest) in reason(result)
    assert drafted.double.requests == []


def test_a_billed_month_whose_frozen_rows_were_altered_is_refused_from_the_start(
    drafted: Any, reason: Any
) -> None:
    drafted.bill("2025-03")
    sent = len(drafted.double.requests)
    flip_a_byte(drafted.store / "2025-03" / "v0002" / "rows.parquet")

    result = drafted.run("2025-03")

    assert "raw_usage: The frozen file" in reason(result)
    assert "is not what was frozen" in reason(result)
    assert len(drafted.double.requests) == sent


def test_without_a_key_nothing_is_sent_and_the_setting_is_named(
    drafted: Any, reason: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRIPE_API_BASE", drafted.double.base_url)
    overrides = {**drafted.resources(), "stripe": StripeResource()}
    drafted.job = build_defs(resource_overrides=overrides).resolve_job_def("monthly_billing")

    result = drafted.run("2025-03", ["stripe_invoices"])

    assert "STRIPE_API_KEY is not set." in reason(result)
    assert drafted.double.requests == []


def test_a_failure_carries_its_remedy_and_is_not_retried(platform: Any) -> None:
    result = platform.run("2099-01", ["raw_usage"])

    failure = result.failure_data_for_node("raw_usage")
    assert failure is not None
    assert failure.user_failure_data.metadata["remedy"].value == (
        "Only closed months are billed; try again after that."
    )


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def test_a_public_address_that_cannot_be_read_fails_before_anything_is_sent(
    drafted: Any, reason: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPELL_BILLING_PUBLIC_URL", "not an address")

    result = drafted.run("2025-03", ["stripe_invoices"])

    assert "SPELL_BILLING_PUBLIC_URL is not a web address." in reason(result)
    assert drafted.double.requests == []
