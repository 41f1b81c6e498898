"""The description at /openapi.json is valid, complete, and what the server does with whatever is sent."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import checks

from spell_billing.web.admin import PROCESS_PATH
from spell_billing.web.app import description
from spell_billing.web.webhook import PATH as WEBHOOK_PATH
from spell_billing_tests.web.house import SECRET, House, house

OPERATIONS = [
    (path, method)
    for path, item in description("")["paths"].items()
    for method in item
    if method != "parameters"
]


def test_the_description_lists_every_endpoint_for_programs(shared_house: House) -> None:
    document = shared_house.admit("GET", "/openapi.json").json

    assert document["openapi"] == "3.1.0"
    assert document["servers"] == [{"url": shared_house.url}]
    assert set(OPERATIONS) >= {
        ("/admin/billing/process-monthly", "post"),
        ("/admin/billing/months", "get"),
        ("/admin/billing/months/{month}", "get"),
        *(
            (f"/admin/billing/months/{{month}}/{name}", "post")
            for name in ("approve", "hold", "release", "settle")
        ),
        ("/stripe/webhook", "post"),
        ("/v1/users/{user_id}/invoices", "get"),
        ("/v1/users/{user_id}/usage", "get"),
        ("/v1/users/{user_id}/link", "post"),
        ("/v1/changes", "get"),
        ("/health", "get"),
    }


@pytest.mark.parametrize("path", ["/docs", "/docs/oauth2-redirect", "/redoc"])
def test_no_page_about_it_loads_scripts_from_elsewhere(shared_house: House, path: str) -> None:
    answer = shared_house.admit("GET", path)

    assert re.search(r"swagger|redoc\b|cdn\.", answer.text.lower()) is None


def test_every_schema_in_it_is_a_json_schema() -> None:
    document = description("")
    for name, schema in document["components"]["schemas"].items():
        assert jsonschema_rs.meta.is_valid({**schema, "components": document["components"]}), name


@pytest.fixture(scope="module")
def described_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Give a server whose platform has its tables, and no user."""
    home = tmp_path_factory.mktemp("described")
    with closing(sqlite3.connect(home / "billing.db")) as connection:
        connection.executescript(
            "CREATE TABLE usage_counters (id INTEGER PRIMARY KEY, user_id TEXT, cost_cents INTEGER, "
            "created_at TEXT); "
            "CREATE TABLE billing_accounts (user_id TEXT PRIMARY KEY, stripe_customer_id TEXT);"
        )
    with house(f"sqlite:///{home / 'billing.db'}", home) as opened:
        yield opened


@pytest.mark.parametrize(("path", "method"), OPERATIONS, ids=[" ".join(each) for each in OPERATIONS])
def test_the_server_does_what_is_described_whatever_is_sent(
    described_house: House, path: str, method: str
) -> None:
    schema = schemathesis.openapi.from_dict(description(described_house.url))
    # Without the secret nothing is served that a check could look for: other tests tell.
    excluded = [checks.CHECKS.get_one("ignored_auth")]
    if path in {PROCESS_PATH, WEBHOOK_PATH} or path.startswith("/v1/"):
        # No schema says which month is closed or has begun, what a cursor holds, or how Stripe signs.
        excluded.append(checks.CHECKS.get_one("positive_data_acceptance"))

    @settings(
        max_examples=15,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=schema[path][method].as_strategy())
    def send(case: Any) -> None:
        case.call_and_validate(
            base_url=described_house.url, headers={"X-Admin-Secret": SECRET}, excluded_checks=excluded
        )

    send()
