"""MAIL_URL, MAIL_FROM and MAIL_TEMPLATES: what is accepted, and messages without a password."""

from email.headerregistry import Address
from pathlib import Path

import pytest

from spell_billing.core.errors import SettingsError
from spell_billing.mail.settings import MailServer, MailSettings, checked_address, parse_mail_url


def settings(**environment: str) -> MailSettings:
    return MailSettings(environment)


def test_mail_is_off_unless_a_server_is_named() -> None:
    assert settings().server is None
    assert settings(MAIL_URL="  ").server is None


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("smtp://mail.example.com", ("mail.example.com", 587, "start", None, "")),
        ("smtps://mail.example.com", ("mail.example.com", 465, "at_once", None, "")),
        ("smtp://u%40x:p%3A%2F@mail.example.com:2525", ("mail.example.com", 2525, "start", "u@x", "p:/")),
        ("smtp://localhost:1025", ("localhost", 1025, "none", None, "")),
        ("smtp://u:p@127.0.0.1:1025", ("127.0.0.1", 1025, "none", "u", "p")),
        ("smtp://relay.example.com:25?tls=none", ("relay.example.com", 25, "none", None, "")),
    ],
)
def test_a_mail_url_names_server_encryption_and_login(url: str, expected: tuple[object, ...]) -> None:
    server = parse_mail_url(url)

    found = (server.host, server.port, server.tls, server.user, server.password.get_secret_value())
    assert found == expected
    assert "p:/" not in f"{server} {server!r}"


@pytest.mark.parametrize(
    "url",
    [
        *("mail.example.com:587", "http://mail.example.com", "smtp://", "smtp://u:Vertraulich@:25"),
        *("smtp://u:Vertraulich@mail.example.com:port", "smtp://u:Vertraulich@mail.example.com/inbox"),
        *("smtp://u:Vertraulich@mail.example.com?tls=off", "smtp://u:Vertraulich@mail.example.com?x=1"),
        "smtp://u:Vertraulich@mail.example.com?tls=none",
    ],
)
def test_a_mail_url_that_cannot_be_used_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError, match="MAIL_URL") as caught:
        _ = settings(MAIL_URL=url).server

    assert "Vertraulich" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("billing@example.com", Address(addr_spec="billing@example.com")),
        ("Billing <billing@example.com>", Address("Billing", addr_spec="billing@example.com")),
        ('"Billing, Spell" <b@example.com>', Address("Billing, Spell", addr_spec="b@example.com")),
    ],
)
def test_the_sender_is_an_address_with_or_without_a_name(text: str, expected: Address) -> None:
    assert settings(MAIL_FROM=text).sender == expected


@pytest.mark.parametrize("text", ["Billing", "a@example.com, b@example.com", "Billing <>", "a@localhost"])
def test_a_sender_that_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"MAIL_FROM=.* is not an address"):
        _ = settings(MAIL_FROM=text).sender


def test_a_server_without_a_sender_is_an_error_that_names_the_setting() -> None:
    with pytest.raises(SettingsError, match=r"MAIL_FROM is not set\. Set it to the sender"):
        _ = settings(MAIL_URL="smtp://localhost").sender


def test_templates_come_from_an_existing_folder(tmp_path: Path) -> None:
    assert settings().templates is None
    assert settings(MAIL_TEMPLATES=str(tmp_path)).templates == tmp_path
    with pytest.raises(SettingsError, match=r"MAIL_TEMPLATES=.*nowhere' is not a folder"):
        _ = settings(MAIL_TEMPLATES=str(tmp_path / "nowhere")).templates


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (" user-0001@example.com ", "user-0001@example.com"),
        ("user+tag@sub.example.com", "user+tag@sub.example.com"),
        ("user@bücher.example.com", "user@xn--bcher-kva.example.com"),
    ],
)
def test_an_address_goes_into_a_header_as_ascii(text: str, address: str) -> None:
    assert checked_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        *("", "@", "user", "user@", "@example.com", "a@b@example.com", "user@localhost", "ü@example.com"),
        *(
            "a@example.com, b@example.com",
            "a@example.com\nb@example.com",
            "a b@example.com",
            "<a@example.com>",
        ),
        *("a@example.com;b@example.com", "a\x00@example.com", "a@exa mple.com", "a@" + "x" * 300 + ".com"),
    ],
)
def test_anything_but_one_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an address"):
        checked_address(text)


def test_neither_settings_nor_server_show_a_password() -> None:
    both = settings(MAIL_URL="smtp://u:Vertraulich@mail.example.com")

    assert "Vertraulich" not in f"{both!r} {both.server!r} {both.server}"
    assert str(MailServer("mail.example.com", 587, "start")) == "mail.example.com:587"


@pytest.mark.parametrize(
    ("address", "domain"),
    [
        ("ada@straße.de", "xn--strae-oqa.de"),
        ("ada@bücher.example", "xn--bcher-kva.example"),
        ("ada@BÜCHER.example", "xn--bcher-kva.example"),
        ("ada@faß.example", "xn--fa-hia.example"),
        ("ada@βόλος.com", "xn--nxasmm1c.com"),
        ("ada@Example.COM", "Example.COM"),
    ],
)
def test_a_domain_goes_to_where_its_owner_registered_it(address: str, domain: str) -> None:
    assert checked_address(address) == f"ada@{domain}"
