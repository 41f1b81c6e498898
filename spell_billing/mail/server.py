"""One connection to the mail server, and what its answers mean for a mail."""

import re
import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage

from spell_billing.mail.settings import MailServer

TIMEOUT_SECONDS = 20.0

_PERMANENT = 500
_UNUSABLE = frozenset({421, 530, 535, 538})
"""Not available, and three ways to say that a login is needed."""

_POLICY = re.compile(r"\s*5\.7\.\d|.*\brelay", re.IGNORECASE)
"""A server that will not relay for us says so with 5.7.x (RFC 3463) or in words: the user is not at fault."""


class ServerUnusableError(Exception):
    """The server cannot be used now; no mail is at fault. The text holds no address and no password."""


class MailDelayedError(Exception):
    """The server did not take this mail for now, or its answer was lost."""


class MailRefusedError(Exception):
    """The server refuses this mail or its address for good."""


@contextmanager
def connected(server: MailServer, context: ssl.SSLContext | None = None) -> Iterator[smtplib.SMTP]:
    """Connect to the server, encrypted and logged in as its settings say.

    `context` says whom to trust; None: the system's certificates.

    Raises:
        ServerUnusableError: when there is no connection, no encryption, or no login.
    """
    trust = context or ssl.create_default_context()
    smtp: smtplib.SMTP | None = None
    try:
        if server.tls == "at_once":
            smtp = smtplib.SMTP_SSL(server.host, server.port, timeout=TIMEOUT_SECONDS, context=trust)
        else:
            smtp = smtplib.SMTP(server.host, server.port, timeout=TIMEOUT_SECONDS)
        if server.tls == "start":
            smtp.starttls(context=trust)
        smtp.ehlo_or_helo_if_needed()
        if server.user is not None:
            smtp.login(server.user, server.password.get_secret_value())
    except (smtplib.SMTPException, OSError) as error:
        if smtp is not None:
            smtp.close()
        raise ServerUnusableError(_in_words(error)) from error
    try:
        yield smtp
    finally:
        try:
            smtp.quit()
        except (smtplib.SMTPException, OSError):
            smtp.close()


def send(smtp: smtplib.SMTP, message: EmailMessage) -> None:
    """Hand in one mail; on return the server has taken it.

    Raises:
        MailRefusedError: this mail, for good.
        MailDelayedError: this mail, for now.
        ServerUnusableError: every mail; the connection is of no use any more.
    """
    try:
        smtp.send_message(message)
    except smtplib.SMTPRecipientsRefused as refused:
        ((code, text),) = refused.recipients.values()
        raise _verdict(code, text, message) from refused
    except smtplib.SMTPSenderRefused as refused:
        raise ServerUnusableError(_answer(refused.smtp_code, refused.smtp_error, message)) from refused
    except smtplib.SMTPResponseException as refused:
        raise _verdict(refused.smtp_code, refused.smtp_error, message) from refused
    except (smtplib.SMTPException, OSError) as error:
        raise ServerUnusableError(_in_words(error)) from error


def _verdict(code: int, text: bytes | str, message: EmailMessage) -> Exception:
    answer = _answer(code, text, message)
    if code in _UNUSABLE:
        return ServerUnusableError(answer)
    if code < _PERMANENT or _POLICY.match(_decoded(text)):
        return MailDelayedError(answer)
    return MailRefusedError(answer)


def _answer(code: int, text: bytes | str, message: EmailMessage) -> str:
    # Servers repeat the address, and it has no place in the ledger or a log.
    first = _decoded(text).strip().partition("\n")[0][:200]
    for address in message["To"].addresses:
        first = first.replace(address.addr_spec, "(address)")
    return f"{code} {first}"


def _decoded(text: bytes | str) -> str:
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else text


def _in_words(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        # The answer to a login may repeat what was sent.
        return f"{type(error).__name__} {error.smtp_code}"
    # smtplib's errors are OSErrors too, with words of their own instead of the system's.
    words = str(error) if isinstance(error, smtplib.SMTPException) else getattr(error, "strerror", None)
    return f"{type(error).__name__}: {words}"
