"""The connection to the mail server: encrypted where it must be, and no password in any text."""

import ssl
from typing import Any

import pytest

from spell_billing.mail.settings import MailServer

USERS = ("user-0001", "user-0002", "user-0003")


@pytest.mark.parametrize("tls", ["start", "at_once"])
def test_mail_and_password_travel_encrypted(
    switched_on: Any, receiver: Any, trust: ssl.SSLContext, tls: str
) -> None:
    switched_on.invoice("user-0001")
    with receiver.running(tls=tls, login=True) as server:
        done = switched_on.round(server, context=trust)

    assert (done.sent, done.trouble) == (1, None)
    assert receiver.logins == [b"billing"]
    assert receiver.encrypted == [True]


@pytest.mark.both_databases
@pytest.mark.parametrize("tls", ["start", "at_once"])
def test_a_server_whose_certificate_is_not_trusted_gets_neither_mail_nor_password(
    switched_on: Any, receiver: Any, tls: str
) -> None:
    switched_on.invoice("user-0001")
    with receiver.running(tls=tls, login=True) as server:
        done = switched_on.round(server)

    assert "CERTIFICATE_VERIFY_FAILED" in str(done.trouble) or "SSL" in str(done.trouble)
    assert (receiver.taken, receiver.logins) == ([], [])


def test_a_server_that_offers_no_encryption_gets_nothing_where_it_is_required(
    switched_on: Any, receiver: Any
) -> None:
    switched_on.invoice("user-0001")
    with receiver.running(login=True) as plain:
        done = switched_on.round(MailServer(plain.host, plain.port, "start", plain.user, plain.password))

    assert "STARTTLS" in str(done.trouble)
    assert (receiver.taken, receiver.logins) == ([], [])


def test_a_refused_login_holds_all_mail_and_shows_no_password(switched_on: Any, receiver: Any) -> None:
    switched_on.invoice(*USERS)
    with receiver.running(login=True) as server:
        wrong = MailServer(
            server.host, server.port, "none", "billing", type(server.password)("Vertraulich72")
        )
        done = switched_on.round(wrong)
        switched_on.later(minutes=1)
        again = switched_on.round(server)

    assert done.trouble == "SMTPAuthenticationError 535"
    assert "Vertraulich" not in str(switched_on.outbox())
    assert again.sent == 3
