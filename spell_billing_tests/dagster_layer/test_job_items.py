"""The whole job with a line for each endpoint, set by the environment; and items that are not the rows."""

from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spell_billing.usage.aggregate import aggregate
from spell_billing.usage.frozen import USER_ITEMS_FILE
from spell_billing.usage.user_usage import keep_user_usage


@pytest.fixture
def by_endpoint(make_platform: Any, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("LINE_ITEMS_BY", "endpoint")
    platform = make_platform(sqlite_url)
    platform.accounts("user-0001")
    platform.calls("2025-03", ("user-0001", 300), ("user-0001", 200), ("user-0002", 7))
    platform.source.execute("UPDATE usage_counters SET endpoint = '/v1/chat' WHERE cost_cents = 300")
    return platform


def test_the_setting_of_the_environment_makes_the_lines(by_endpoint: Any, metadata_of: Any) -> None:
    result = by_endpoint.bill("2025-03")

    assert metadata_of(result, "user_usage")["line_items_by"] == "endpoint"
    (invoice,) = by_endpoint.invoices()
    assert [line.amount_cents for line in invoice.lines] == [300, 200]
    assert all(each.passed for each in result.get_asset_check_evaluations() if each.blocking)


def test_items_that_are_not_the_users_usage_fail_the_check_and_stop_the_month(
    by_endpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def aggregate_wrongly(*arguments: Any, **named: Any) -> Any:
        found = aggregate(*arguments, **named)
        rows = pq.read_table(found.path.with_name(USER_ITEMS_FILE)).to_pylist()
        rows[0]["cost_cents"] += Decimal(1)
        rows[-1]["cost_cents"] -= Decimal(1)
        schema = pq.read_schema(found.path.with_name(USER_ITEMS_FILE))
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), found.path.with_name("wrong"))
        keep_user_usage(found.path.with_name("wrong"), found.path.parent, USER_ITEMS_FILE)
        return found

    monkeypatch.setattr("spell_billing.orchestration.assets.user_usage.aggregate", aggregate_wrongly)
    result = by_endpoint.run("2025-03")

    failed = [each for each in result.get_asset_check_evaluations() if not each.passed]
    assert [each.check_name for each in failed] == ["user_usage_equals_raw_usage"]
    assert failed[0].description.endswith("The items of the users do not add up to them.")
    assert by_endpoint.double.requests == []


def test_a_month_with_rate_cards_passes_every_check_at_its_prices(by_endpoint: Any, metadata_of: Any) -> None:
    by_endpoint.source.execute(
        "CREATE TABLE rate_cards (item text, model text, unit text, unit_price_cents text)",
        "INSERT INTO rate_cards VALUES ('/v1/chat', 'flat', 'call', '12.5')",
        "INSERT INTO rate_cards VALUES ('/v1/chta', 'flat', 'call', '3')",
    )

    result = by_endpoint.bill("2025-03")

    assert metadata_of(result, "raw_usage")["usage_cents"] == 507
    assert metadata_of(result, "user_usage")["usage_cents_exact"] == "219.5"
    assert metadata_of(result, "user_usage")["unused_rate_cards"] == [
        "The rate card of every plan and item /v1/chta from the beginning"
    ]
    (invoice,) = by_endpoint.invoices()
    assert [line.amount_cents for line in invoice.lines] == [13, 200]
    assert all(each.passed for each in result.get_asset_check_evaluations() if each.blocking)
