"""Settings of the doors: wrong ones stop the server with a message that holds no secret."""

import pytest

from spell_billing.core.errors import SettingsError
from spell_billing.web.keys import derive_key
from spell_billing.web.settings import WebSettings


@pytest.mark.parametrize(
    ("secret", "says"),
    [
        (None, "is not set"),
        ("  ", "is not set"),
        ("fifteen-letters", "too short"),
        ("with spaces in it, long", "character"),
        ("schlüssel-schlüssel", "character"),
        ("line\nbreak-in-the-secret", "character"),
    ],
)
def test_a_server_without_a_good_secret_does_not_start(secret: str | None, says: str) -> None:
    settings = WebSettings({} if secret is None else {"ADMIN_SECRET": secret})
    with pytest.raises(SettingsError, match=says) as raised:
        _ = settings.admin_secret

    assert raised.value.remedy
    assert not secret or not secret.strip() or secret not in str(raised.value)


def test_secrets_do_not_show_in_print() -> None:
    settings = WebSettings({"ADMIN_SECRET": "0123456789abcdef", "STRIPE_WEBHOOK_SECRET": "whsec_0123456789"})

    assert "0123456789" not in repr(settings)
    assert "0123456789" not in repr(settings.admin_secret)
    assert "0123456789" not in repr(settings.stripe_webhook_secrets)


def test_several_webhook_secrets_stand_between_commas() -> None:
    settings = WebSettings({"STRIPE_WEBHOOK_SECRET": " whsec_0000000001, whsec_0000000002,"})

    assert [each.get_secret_value() for each in settings.stripe_webhook_secrets] == [
        *("whsec_0000000001", "whsec_0000000002")
    ]
    assert WebSettings({}).stripe_webhook_secrets == ()


def test_a_webhook_secret_of_another_kind_is_refused() -> None:
    with pytest.raises(SettingsError, match="STRIPE_WEBHOOK_SECRET") as raised:
        _ = WebSettings(
            {"STRIPE_WEBHOOK_SECRET": "whsec_0000000001,sk_live_0000000001"}
        ).stripe_webhook_secrets

    assert "sk_live" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://billing.example.com", "https://billing.example.com"),
        ("https://billing.example.com:8443/", "https://billing.example.com:8443"),
        ("HTTPS://billing.example.com", "https://billing.example.com"),
        ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
        ("http://localhost:3000/", "http://localhost:3000"),
        ("http://[::1]:3000", "http://[::1]:3000"),
    ],
)
def test_the_public_address_begins_links(text: str, url: str) -> None:
    assert WebSettings({"SPELL_BILLING_PUBLIC_URL": text}).public_url == url


@pytest.mark.parametrize(
    "text",
    [
        *("billing.example.com", "http://billing.example.com", "ftp://127.0.0.1", "https://"),
        *(
            "https://user:hidden@example.com",
            "https://example.com/billing",
            "https://example.com?x",
            "https://[::1",
        ),
        *("https://example.com:0", "https://example.com:port"),
    ],
)
def test_an_address_that_is_none_or_would_send_secrets_in_the_clear_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="SPELL_BILLING_PUBLIC_URL") as raised:
        _ = WebSettings({"SPELL_BILLING_PUBLIC_URL": text}).public_url

    assert "hidden" not in str(raised.value)


def test_only_named_proxies_are_trusted() -> None:
    assert WebSettings({}).trusted_proxies == ()
    assert WebSettings({"FORWARDED_ALLOW_IPS": "10.0.0.7, 10.1.0.0/16"}).trusted_proxies == (
        *("10.0.0.7", "10.1.0.0/16"),
    )
    for everyone in ("*", "example.com", "10.0.0.7 10.0.0.8", "0.0.0.0/0", "::/0"):
        with pytest.raises(SettingsError, match="FORWARDED_ALLOW_IPS"):
            _ = WebSettings({"FORWARDED_ALLOW_IPS": everyone}).trusted_proxies


def test_a_key_is_good_for_one_purpose_and_one_secret() -> None:
    secrets = [
        WebSettings({"ADMIN_SECRET": text}).admin_secret for text in ("0123456789abcdef", "0123456789abcdeg")
    ]
    keys = {derive_key(secret, purpose) for secret in secrets for purpose in ("session", "user link")}

    assert len(keys) == 4
    assert {len(key) for key in keys} == {32}
    assert derive_key(secrets[0], "session") == derive_key(secrets[0], "session")
