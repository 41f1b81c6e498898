"""Settings: each default, each refusal with its remedy, and no secret in any text."""

import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from spell_billing.core.errors import SettingsError
from spell_billing.core.month import Month
from spell_billing.settings.addresses import DEFAULT_STRIPE_API_BASE, check_api_base, check_api_key
from spell_billing.settings.billing import Settings

SECRET = "sk_live_51secretsecretsecret"
SETTINGS = {
    "home": "SPELL_BILLING_HOME",
    "database": "DATABASE_URL",
    "usage_database": "USAGE_DATABASE_URL",
    "usage_store": "SPELL_BILLING_USAGE_STORE",
    "first_month": "SPELL_BILLING_FIRST_MONTH",
    "stripe_api_key": "STRIPE_API_KEY",
    "stripe_api_base": "STRIPE_API_BASE",
    "stripe_requests_per_second": "STRIPE_REQUESTS_PER_SECOND",
    "stripe_requests_per_second_per_endpoint": "STRIPE_REQUESTS_PER_SECOND_PER_ENDPOINT",
    "dagster_home": "DAGSTER_HOME",
}


def test_every_setting_has_its_default_but_the_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in SETTINGS.values():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    settings = Settings.from_environment()

    assert settings.home.is_relative_to(tmp_path)
    assert settings.home.name == "spell-billing"
    assert settings.database.sqlite_path == settings.home / "billing.db"
    assert settings.usage_database == settings.database
    assert settings.usage_store == settings.home / "usage"
    assert settings.dagster_home == settings.home / "dagster"
    assert settings.first_month == Month(2024, 1)
    assert settings.stripe_api_base == DEFAULT_STRIPE_API_BASE == "https://api.stripe.com"
    assert settings.stripe_requests_per_second is None
    assert settings.stripe_requests_per_second_per_endpoint is None
    with pytest.raises(SettingsError, match=r"STRIPE_API_KEY is not set.*Set it to your Stripe secret key"):
        _ = settings.stripe_api_key


def test_every_setting_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = Settings(
        {
            "SPELL_BILLING_HOME": "~/billing",
            "DATABASE_URL": "postgresql://u:pw@db.example.com/ledger",
            "USAGE_DATABASE_URL": "postgresql://replica.example.com/platform",
            "SPELL_BILLING_USAGE_STORE": "/var/usage",
            "SPELL_BILLING_FIRST_MONTH": " 2026-03 ",
            "STRIPE_API_KEY": f"\t{SECRET}\n",
            "STRIPE_API_BASE": "http://127.0.0.1:12111/",
            "STRIPE_REQUESTS_PER_SECOND": "80",
            "STRIPE_REQUESTS_PER_SECOND_PER_ENDPOINT": "2.5",
            "DAGSTER_HOME": "/var/dagster",
        }
    )

    assert settings.home == tmp_path / "billing"
    assert settings.database.redacted == "postgresql://u:***@db.example.com/ledger"
    assert settings.usage_database.redacted == "postgresql://replica.example.com/platform"
    assert settings.usage_database.setting == "USAGE_DATABASE_URL"
    assert settings.usage_store == Path("/var/usage")
    assert settings.first_month == Month(2026, 3)
    assert settings.stripe_api_key.get_secret_value() == SECRET
    assert settings.stripe_api_base == "http://127.0.0.1:12111"
    assert settings.stripe_requests_per_second == 80
    assert settings.stripe_requests_per_second_per_endpoint == 2.5
    assert settings.dagster_home == Path("/var/dagster")


@pytest.mark.parametrize("text", ["", " ", "\t\n"])
def test_an_empty_setting_is_an_unset_one(text: str) -> None:
    settings = Settings(dict.fromkeys(SETTINGS.values(), text))
    unset = Settings({})

    for name in set(SETTINGS) - {"stripe_api_key"}:
        assert getattr(settings, name) == getattr(unset, name)
    with pytest.raises(SettingsError, match="not set"):
        _ = settings.stripe_api_key


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("home", "~no-such-user-here/billing"),
        ("usage_store", "~no-such-user-here"),
        ("dagster_home", "~no-such-user-here"),
        ("database", "mysql://db.example.com/ledger"),
        ("database", "sqlite:///:memory:"),
        ("usage_database", "billing.db"),
        ("first_month", "2026"),
        ("first_month", "2026-13"),
        ("stripe_requests_per_second", "0"),
        ("stripe_requests_per_second", "-1"),
        ("stripe_requests_per_second", "nan"),
        ("stripe_requests_per_second", "inf"),
        ("stripe_requests_per_second_per_endpoint", "many"),
        ("stripe_api_key", "pk_live_123"),
        ("stripe_api_base", "api.stripe.com"),
    ],
)
def test_a_bad_value_is_refused_by_the_name_of_its_setting_with_a_remedy(setting: str, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        getattr(Settings({SETTINGS[setting]: text}), setting)

    assert SETTINGS[setting] in caught.value.message
    assert caught.value.remedy.endswith(".")


def test_a_bad_setting_stops_only_what_needs_it() -> None:
    settings = Settings({"DATABASE_URL": "oops", "STRIPE_API_BASE": "http://example.com"})

    assert settings.first_month == Month(2024, 1)
    with pytest.raises(SettingsError, match="DATABASE_URL"):
        _ = settings.database


@pytest.mark.parametrize("key", ["sk_live_1", "sk_test_1", "rk_live_1", "rk_test_1", "sk_1"])
def test_secret_and_restricted_keys_are_accepted(key: str) -> None:
    accepted = check_api_key(key)

    assert accepted.get_secret_value() == key
    assert key not in f"{accepted} {accepted!r}"


@given(key=st.text(st.characters(exclude_categories=["Cs"]), min_size=4))
@example(key="pk_live_51secret")
@example(key="whsec_51secret")
@example(key="SK_LIVE_51secret")
@example(key="sk_live_51 secret")
@example(key="sk_live_51secret\nX-Header: 1")
@example(key="sk_live_51sécret")
@example(key="Bearer sk_live_51secret")
@example(key='"sk_live_51secret"')
def test_what_is_no_secret_key_is_refused_without_repeating_it(key: str) -> None:
    assume(not key.startswith(("sk_", "rk_")) or not key.isascii() or not key.isprintable() or " " in key)

    with pytest.raises(SettingsError, match="STRIPE_API_KEY") as caught:
        check_api_key(key)

    text = "".join(traceback.format_exception(caught.value, limit=0))
    assert "51secret" not in text
    # A text of ours may hold a short word of hypothesis' own by chance.
    assert len(key) < 8 or key not in text


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("https://api.stripe.com/", "https://api.stripe.com"),
        ("https://proxy.example.com:8443/stripe/", "https://proxy.example.com:8443/stripe"),
        # The client decides by the scheme whether to verify certificates.
        ("HTTPS://api.stripe.com", "https://api.stripe.com"),
        ("http://127.0.0.1:12111", "http://127.0.0.1:12111"),
        ("http://localhost:12111", "http://localhost:12111"),
        ("HTTP://LOCALHOST:12111", "http://LOCALHOST:12111"),
        ("http://[::1]:12111", "http://[::1]:12111"),
    ],
)
def test_https_anywhere_and_http_on_this_machine_are_accepted(text: str, address: str) -> None:
    assert check_api_base(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "http://api.stripe.com",
        "http://10.0.0.1",
        "http://0.0.0.0:12111",
        "http://127.0.0.1.example.com",
        "http://localhost.example.com",
        "http://[::2]",
        "ftp://localhost",
        "//localhost:12111",
        "file:///etc/passwd",
    ],
)
def test_an_address_that_would_send_the_key_in_the_clear_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="STRIPE_API_BASE"):
        check_api_base(text)


@pytest.mark.parametrize(
    "text",
    [
        f"http://localhost:{SECRET}@example.com",
        f"https://user:{SECRET}@api.stripe.com",
        f"https://{SECRET}@api.stripe.com",
        f"https://api.stripe.com?key={SECRET}",
        f"https://api.stripe.com#{SECRET}",
        f"http://127.0.0.1\\:{SECRET}@example.com",
        f"https://api.stripe.com:{SECRET}",
        f"https://[{SECRET}",
        SECRET,
    ],
)
def test_a_secret_inside_an_address_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(SettingsError, match="STRIPE_API_BASE") as caught:
        check_api_base(text)

    assert "secretsecret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "password", ["hunter2hunter2", "p@ss/hunter2hunter2", "hunter2hunter2:x", "%zzhunter2hunter2"]
)
@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:{}@db.example.com",
        "postgresql://u:{}@db.example.com:port/ledger",
        "mysql://u:{}@db.example.com/ledger",
        "u:{}@db.example.com/ledger",
        "postgresql://db.example.com/ledger?password={}&nonsense=1",
    ],
)
def test_a_refused_database_url_does_not_repeat_its_password(url: str, password: str) -> None:
    with pytest.raises(SettingsError, match="DATABASE_URL") as caught:
        _ = Settings({"DATABASE_URL": url.format(password)}).database

    assert "hunter2hunter2" not in "".join(traceback.format_exception(caught.value))


def test_printing_the_settings_shows_none_of_them() -> None:
    settings = Settings(
        {
            "STRIPE_API_KEY": SECRET,
            "DATABASE_URL": f"postgresql://u:{SECRET}@db.example.com/ledger",
            "USAGE_DATABASE_URL": f"postgresql://u:{SECRET}@replica.example.com/platform",
        }
    )
    values: list[Any] = [settings, settings.stripe_api_key, settings.database, settings.usage_database]
    values.append({"settings": settings})

    assert SECRET not in "".join(f"{value} {value!r}" for value in values)
    assert "example.com" not in f"{settings} {settings!r}"


@pytest.mark.parametrize(
    ("name", "attribute", "default"),
    [("BILLING_GRACE_MINUTES", "billing_grace", 0), ("SOURCE_WAIT_MINUTES", "source_wait", 30)],
)
def test_minutes_are_whole_and_bounded(name: str, attribute: str, default: int) -> None:
    assert getattr(Settings({}), attribute) == timedelta(minutes=default)
    assert getattr(Settings({name: " 45 "}), attribute) == timedelta(minutes=45)
    assert getattr(Settings({name: "0"}), attribute) == timedelta(0)
    for wrong in ("-1", "1.5", "half an hour", "\u0661\u0665", "9" * 400, "100000"):
        with pytest.raises(SettingsError, match=rf"{name}=.* is not a number of minutes.*whole number"):
            getattr(Settings({name: wrong}), attribute)


def test_the_column_to_prove_unique_is_a_plain_name() -> None:
    assert Settings({}).usage_dedupe_column is None
    assert Settings({"USAGE_DEDUPE_COLUMN": " request_id "}).usage_dedupe_column == "request_id"
    for wrong in ("request id", "id; DROP TABLE x", '"id"', "1st", "lower(id)"):
        with pytest.raises(SettingsError, match=r"is not the name of a column.*as request_id"):
            _ = Settings({"USAGE_DEDUPE_COLUMN": wrong}).usage_dedupe_column


def test_lines_are_made_by_a_column_that_is_not_of_every_row_its_own() -> None:
    assert Settings({}).line_items_by is None
    assert Settings({"LINE_ITEMS_BY": "endpoint"}).line_items_by == "endpoint"
    with pytest.raises(SettingsError, match=r"LINE_ITEMS_BY='a b' is not the name of a column.*as endpoint"):
        _ = Settings({"LINE_ITEMS_BY": "a b"}).line_items_by
    with pytest.raises(SettingsError, match=r"LINE_ITEMS_BY=User_ID would make a line for each call or user"):
        _ = Settings({"LINE_ITEMS_BY": "User_ID"}).line_items_by


@pytest.mark.parametrize(
    ("text", "value"), [("", "off"), ("off", "off"), (" On ", "on"), ("enforced", "enforced")]
)
def test_automatic_tax_is_off_on_or_enforced(text: str, value: str) -> None:
    settings = Settings({"AUTOMATIC_TAX": text})

    assert settings.automatic_tax == settings.policy.automatic_tax == value
    with pytest.raises(SettingsError, match=r"AUTOMATIC_TAX='true' is not one of its values"):
        Settings({"AUTOMATIC_TAX": "true"}).policy  # noqa: B018 - reading it checks it


@pytest.mark.parametrize(("text", "value"), [("", False), ("false", False), ("True", True)])
def test_discounts_of_stripe_are_honoured_or_not(text: str, value: bool) -> None:  # noqa: FBT001 - a value
    settings = Settings({"HONOUR_STRIPE_DISCOUNTS": text})

    assert settings.honour_stripe_discounts is settings.policy.discounts is value
    with pytest.raises(SettingsError, match=r"HONOUR_STRIPE_DISCOUNTS='yes' is not one of its values"):
        Settings({"HONOUR_STRIPE_DISCOUNTS": "yes"}).policy  # noqa: B018 - reading it checks it
