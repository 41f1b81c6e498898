"""No password, token or key gets into an alert, an error, a log line or the ledger."""

import logging
import socket
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from spell_billing.alerts.alert import Alert
from spell_billing.alerts.channels import Alerts
from spell_billing.alerts.redact import redact, url_secrets
from spell_billing.core.errors import AlertError
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.schema import outbox
from spell_billing_tests.alerting.receivers import WebReceiver

SECRETS = ("hunter2hunter2", "T0KENinThePath99", "T0KENinTheHeader", "T0KENinTheQuery0")
TOKENS = st.text(
    alphabet="abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=8, max_size=40
)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def everything_kept(ledger: Ledger) -> str:
    with ledger.reading() as connection:
        return repr(connection.execute(sa.select(outbox)).all())


@pytest.mark.parametrize("works", [True, False], ids=["taken", "refused"])
def test_the_secrets_of_a_channel_stay_in_its_url(
    works: bool,  # noqa: FBT001 - a parameter of the test
    alerts_on: Callable[..., Alerts],
    web: WebReceiver,
    ledger: Ledger,
    caplog: pytest.LogCaptureFixture,
) -> None:
    password, path, header, query = SECRETS
    secret_url = (
        f"json://billing:{password}@127.0.0.1:{web.port if works else closed_port()}/hook/{path}"
        f"?+X-Token={header}&-key={query}"
    )
    slack_like = f"mmost://127.0.0.1:{web.port if works else closed_port()}/{path}{path}"
    said = ""

    with caplog.at_level(0):
        try:
            alerts_on(secret_url, slack_like, web.url("healthy")).send(Alert("key", "kind", "title", "body"))
        except AlertError as error:
            assert not works
            said = f"{error} {error!r}"

    texts = (
        said
        + caplog.text
        + everything_kept(ledger)
        + "".join(str(body) for path_, _, body in web.requests if path_ == "/healthy")
    )
    assert not [secret for secret in SECRETS if secret in texts]


def test_a_secret_in_the_words_of_a_failure_is_masked_on_the_way_out(
    alerts_on: Callable[..., Alerts],
    web: WebReceiver,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STRIPE_API_KEY", "rk_live_fromTheEnvironment")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:p%40ssw0rd-secret@db.example.com/billing")
    body = (
        "Invalid API Key provided: sk_live_51AbCdEf; rk_live_fromTheEnvironment; whsec_abcdef0123; "
        "could not reach postgresql://u:other-secret@db.example.com/billing: p@ssw0rd-secret; "
        "connection string: host=db password=third-secret"
    )

    alerts_on(web.url()).send(Alert("key", "kind", "sk_test_4eC39HqLyjWDarjtT1zdp7dc", body))

    (text,) = web.texts
    kept = text + everything_kept(ledger)
    for secret in (
        "51AbCdEf",
        "fromTheEnvironment",
        "abcdef0123",
        "other-secret",
        "p@ssw0rd",
        "third-secret",
        "4eC39",
    ):
        assert secret not in kept, kept
    assert "db.example.com" in text


@given(
    token=TOKENS,
    kind=st.sampled_from(["sk_live_", "sk_test_", "rk_live_", "rk_test_", "whsec_"]),
    before=st.sampled_from(["", " ", "key=", "(", "Bearer ", "\n"]),
    after=st.sampled_from(["", " ", ".", ")", "'", "\n"]),
)
def test_no_key_of_stripe_passes(token: str, kind: str, before: str, after: str) -> None:
    assert token not in redact(f"{before}{kind}{token}{after}")


@given(
    user=TOKENS,
    password=TOKENS,
    path=TOKENS,
    value=TOKENS,
    template=st.sampled_from(["refused: {}", "url {}?", "'{}'", "{}: not found"]),
)
def test_no_piece_of_a_channels_url_passes(
    user: str, password: str, path: str, value: str, template: str
) -> None:
    url = f"json://{user}:{password}@example.com/{path}?+X-Token={value}"

    for piece in (url, password, path, value, f"{user}:{password}"):
        found = redact(template.format(piece), url_secrets(url))
        assert not [secret for secret in (password, path, value) if secret in found]


def test_apprises_own_log_lines_are_held_back(
    alerts_on: Callable[..., Alerts], web: WebReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(0), caplog.at_level(0, logger="apprise"):
        alerts_on(web.url()).send(Alert("key", "kind", "title", "body"))

    assert [record for record in caplog.records if record.name == "apprise"] == []
    assert logging.getLogger("apprise").propagate
