"""The usage source behind PgBouncer, and on servers that allow less: it works, or one sentence says why."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from spell_billing.core.errors import SpellBillingError
from spell_billing.core.month import Month
from spell_billing.databases import parse_database_url
from spell_billing.usage.contract import UsageSource
from spell_billing.usage.one_user import open_one_user
from spell_billing.usage.source import open_usage_source
from spell_billing.usage.store import UsageStore
from spell_billing_tests.environments.servers import pooler

OCTOBER = Month(2026, 10)
MIDDLE = datetime(2026, 10, 15, 12, tzinfo=UTC)
SETTINGS = ("timezone", "row_security", "statement_timeout", "idle_in_transaction_session_timeout")


@pytest.fixture
def store(tmp_path: Path) -> UsageStore:
    return UsageStore(tmp_path / "usage")


@pytest.fixture
def platform_url(make_source_tables: Any, postgres_url: str) -> str:
    """Give the URL of a database with two calls and an account."""
    tables = make_source_tables(postgres_url)
    tables.calls([("user-1", 3, OCTOBER.start), ("user-1", 4, MIDDLE.replace(day=30))])
    tables.accounts([{"user_id": "user-1", "stripe_customer_id": "cus_1"}])
    return postgres_url


def source_of(url: str) -> UsageSource:
    return open_usage_source(parse_database_url(url, setting="USAGE_DATABASE_URL"))


def settings_of(url: str) -> dict[str, str]:
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as platform:
        return {name: str((platform.execute(f"SHOW {name}").fetchone() or [""])[0]) for name in SETTINGS}


def test_usage_is_read_through_a_pooler_and_leaves_no_setting_in_its_sessions(
    platform_url: str, store: UsageStore
) -> None:
    with pooler(platform_url, default_pool_size="2") as url:
        before = settings_of(url)

        manifest = store.freeze(source_of(url), OCTOBER).manifest
        accounts = source_of(url).accounts()
        one_user = open_one_user(parse_database_url(url, setting="USAGE_DATABASE_URL"))
        used, account = one_user.month("user-1", OCTOBER), one_user.account("user-1")

        # Each of the pool's sessions was in use, and is the next one's.
        assert [settings_of(url) for _ in range(4)] == [before] * 4
    assert (manifest.frozen.calls, accounts.num_rows) == (2, 1)
    assert sum(day.calls for day in used.days) == 2
    assert account is not None


def test_a_pooler_with_one_connection_is_enough(platform_url: str, store: UsageStore) -> None:
    with pooler(platform_url, default_pool_size="1", query_wait_timeout="0") as url:
        assert store.freeze(source_of(url), OCTOBER).manifest.frozen.calls == 2


@pytest.mark.parametrize(
    ("mode", "option", "words"),
    [
        ("statement", "", "transaction blocks not allowed in statement pooling mode"),
        ("transaction", "&options=-c%20search_path%3Dplatform", "unsupported startup parameter"),
    ],
)
def test_what_a_pooler_does_not_allow_is_refused_in_one_sentence(
    platform_url: str, store: UsageStore, mode: str, option: str, words: str
) -> None:
    with (
        pooler(platform_url, mode=mode) as url,
        pytest.raises(SpellBillingError, match=words) as refused,
    ):
        store.freeze(source_of(url + option), OCTOBER)
    assert refused.value.remedy
    assert store.versions(OCTOBER) == []


def test_sessions_that_may_not_be_idle_for_long_are_no_obstacle(platform_url: str, store: UsageStore) -> None:
    impatient = (
        "idle_session_timeout=1s",
        "idle_in_transaction_session_timeout=100ms",
        "statement_timeout=1s",
    )
    options = "%20".join(f"-c%20{each.replace('=', '%3D')}" for each in impatient)

    def idle_for_long(_rows: int, _all: int) -> None:
        with psycopg.connect(platform_url, autocommit=True) as admin:
            while not admin.execute(
                "SELECT 1 FROM pg_stat_activity WHERE state = 'idle in transaction' "
                "AND state_change < clock_timestamp() - interval '300 ms' AND datname = current_database()"
            ).fetchone():
                pass

    source = source_of(f"{platform_url}&options={options}")
    assert store.freeze(source, OCTOBER, on_progress=idle_for_long).manifest.frozen.calls == 2
