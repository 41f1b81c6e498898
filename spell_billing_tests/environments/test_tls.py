"""TLS before either database: a certificate that is not proven is refused, with the reason."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from spell_billing.core.month import Month
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Actor
from spell_billing.settings.databases import DatabaseUnreachableError, parse_database_url
from spell_billing.usage.contract import UsageSource
from spell_billing.usage.source import open_usage_source
from spell_billing.usage.store import UsageStore
from spell_billing_tests.environments.servers import free_port, open_folder, pooler

OCTOBER = Month(2026, 10)


@dataclass(frozen=True)
class Secured:
    """A database behind a PgBouncer that speaks TLS alone, because the wheel's server does not."""

    port: int
    database: str
    authority: Path

    def source(self, host: str, root: object) -> UsageSource:
        return open_usage_source(parse_database_url(self._url(host, root), setting="USAGE_DATABASE_URL"))

    def ledger(self, host: str, root: object) -> Ledger:
        return Ledger(parse_database_url(self._url(host, root), setting="DATABASE_URL"))

    def _url(self, host: str, root: object) -> str:
        return (
            f"postgresql://postgres@{host}:{self.port}/{self.database}?sslmode=verify-full&sslrootcert={root}"
        )


@pytest.fixture
def secured(make_source_tables: Any, postgres_url: str) -> Iterator[Secured]:
    """Give a database with one call, behind a certificate for localhost that an authority of ours signed."""
    make_source_tables(postgres_url).calls([("user-1", 5, OCTOBER.start)])
    port = free_port()
    with open_folder("tls-") as folder:
        _sign(folder)
        with pooler(
            postgres_url,
            mode="session",
            listen_addr="127.0.0.1",
            listen_port=str(port),
            client_tls_sslmode="require",
            client_tls_key_file=str(folder / "server.key"),
            client_tls_cert_file=str(folder / "server.pem"),
        ):
            database = str(psycopg.conninfo.conninfo_to_dict(postgres_url)["dbname"])
            yield Secured(port, database, folder / "ca.pem")


def must_lock(opened: Ledger) -> None:
    """Take a month of the ledger, which writes and needs a session of its own."""
    with opened as ledger, ledger.session(OCTOBER, Actor("test"), wait_seconds=0) as session:
        assert session.record() is None
        assert ledger.is_held(OCTOBER)


def _sign(folder: Path) -> None:
    signed = (
        "-CA",
        folder / "ca.pem",
        "-CAkey",
        folder / "ca.key",
        "-addext",
        "subjectAltName=DNS:localhost",
    )
    for name, subject, extra in (("ca", "/CN=Test CA", ()), ("server", "/CN=localhost", signed)):
        command = (
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-days", "2", "-subj", subject, "-keyout", folder / f"{name}.key"),
            *("-out", folder / f"{name}.pem", *extra),
        )
        subprocess.run([str(part) for part in command], check=True, capture_output=True)
    owner = folder.stat()
    for path in folder.iterdir():
        os.chown(path, owner.st_uid, owner.st_gid)


def test_a_server_that_the_authority_signed_for_is_read(secured: Secured, tmp_path: Path) -> None:
    manifest = (
        UsageStore(tmp_path / "usage")
        .freeze(secured.source("localhost", secured.authority), OCTOBER)
        .manifest
    )
    assert manifest.frozen.calls == 1
    must_lock(secured.ledger("localhost", secured.authority))


@pytest.mark.parametrize(
    ("host", "known", "words"),
    [
        ("127.0.0.1", True, "does not match host name"),
        ("localhost", False, "certificate verify failed"),
    ],
)
def test_another_host_or_an_unknown_authority_is_refused_in_one_sentence(
    secured: Secured, tmp_path: Path, host: str, words: str, *, known: bool
) -> None:
    root = secured.authority if known else "system"
    with pytest.raises(DatabaseUnreachableError, match=words) as of_usage:
        UsageStore(tmp_path / "usage").freeze(secured.source(host, root), OCTOBER)
    with pytest.raises(DatabaseUnreachableError, match=words) as of_ledger:
        secured.ledger(host, root)
    for refused in (of_usage, of_ledger):
        assert ("sslrootcert" if host == "localhost" else "certificate") in refused.value.remedy


def test_the_system_s_authorities_are_those_that_openssl_is_told_of(
    secured: Secured, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(secured.authority))
    source = secured.source("localhost", "system")
    assert UsageStore(tmp_path / "usage").freeze(source, OCTOBER).manifest.frozen.calls == 1
    must_lock(secured.ledger("localhost", "system"))
