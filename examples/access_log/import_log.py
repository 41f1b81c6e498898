#!/usr/bin/env python3
"""Turns a web server's access log into the tables that Spell Billing reads: one row per request.

Reads the combined log format of Apache and nginx, and the common one, plain or gzipped. What a request
costs stands in `cost_cents`; the README beside this file walks through the whole of it.
"""

import gzip
import hashlib
import re
import zlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, cast

import click
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    DateTime,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    insert,
    select,
)
from sqlalchemy.exc import DBAPIError

from spell_billing.core.errors import SpellBillingError
from spell_billing.settings.databases import (
    DatabaseUrl,
    create_engine_for,
    database_errors,
    parse_database_url,
)

BYTES_PER_CENT = 100_000
BATCH_ROWS = 5_000
SHOWN_MALFORMED_LINES = 20
GZIP_MAGIC = b"\x1f\x8b"

# Up to the size only: referrer and user agent are not billed, so a line cut off in them still counts.
# Both servers escape a quote inside the request, as \" or \x22. A zero byte is left by a crash.
LINE = re.compile(
    r"(?P<client>[^\s\0]+) \S+ .+? "
    r"\[(?P<time>\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4})\] "
    r'"(?P<request>(?:[^"\\\0]|\\.)*)" \d{3} (?P<bytes>\d+|-)(?: |$)'
)

metadata = MetaData()
usage_counters = Table(
    "usage_counters",
    metadata,
    # SQLite numbers rows by itself only in a column of the type INTEGER.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("cost_cents", BigInteger, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("endpoint", Text),
    Index("ix_usage_counters_created_at", "created_at"),
)
billing_accounts = Table(
    "billing_accounts",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("stripe_customer_id", Text),
    Column("currency", Text, nullable=False),
)
# One row per log: its length and hash tell the same log again, also when it has grown since.
access_log_imports = Table(
    "access_log_imports",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("lines", BigInteger, nullable=False),
)


class MalformedLineError(ValueError):
    """A line that is no request of the combined or common log format."""


@dataclass(frozen=True, slots=True)
class Request:
    """One line of the log: who asked (`client`), when (in UTC), for what, and how many bytes were sent."""

    client: str
    time: datetime
    endpoint: str
    sent_bytes: int

    @property
    def cost_cents(self) -> int:
        """One cent for the request, and one for every started 100,000 bytes of the answer."""
        return 1 - -self.sent_bytes // BYTES_PER_CENT


def parse_line(line: str) -> Request:
    """Read one line, given without its line end.

    Raises:
        MalformedLineError: when it is no request.
    """
    match = LINE.match(line)
    if match is None:
        raise MalformedLineError(line)
    try:
        # The zone is always numeric, and the month's name is English in every log.
        time = datetime.strptime(match["time"], "%d/%b/%Y:%H:%M:%S %z").astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise MalformedLineError(line) from error
    # "GET /path?query HTTP/1.1"; what a broken client sent instead is kept as it is.
    endpoint = " ".join(match["request"].split("?", 1)[0].split(" ")[:2])
    sent = match["bytes"]
    return Request(match["client"], time, endpoint, 0 if sent == "-" else int(sent))


def customer_id(client: str) -> str:
    """Derive the Stripe customer's id from the client's address: letters and digits, always the same."""
    return "cus_" + hashlib.sha256(client.encode()).hexdigest()[:24]


@dataclass(slots=True)
class Tally:
    """What the log holds, counted while it is read. `months` are calendar months in UTC."""

    calls: int = 0
    cents: int = 0
    users: set[str] = field(default_factory=set)
    months: set[str] = field(default_factory=set)
    malformed_lines: int = 0
    malformed_shown: list[str] = field(default_factory=list)


def import_log(connection: Connection, log: IO[bytes]) -> Tally:
    """Insert a row for every request of the log, and an account for every new client.

    Lines that are no request are counted and left out: the caller decides whether to commit. Empty lines
    are neither.

    Raises:
        click.ClickException: when the log is empty, or when it or its beginning was imported before.
    """
    imports = select(access_log_imports.c.size_bytes, access_log_imports.c.sha256)
    imported = {tuple(row) for row in connection.execute(imports)}
    sizes = {size_bytes for size_bytes, _ in imported}
    tally = Tally()
    batch: list[Request] = []
    digest = hashlib.sha256()
    size_bytes = number = 0
    for number, raw in enumerate(log, start=1):
        digest.update(raw)
        size_bytes += len(raw)
        if size_bytes in sizes and (size_bytes, digest.hexdigest()) in imported:
            raise click.ClickException(
                f"The first {number} lines of this log were imported before: nothing is imported now. "
                "Give the lines after them as a log of their own."
            )
        line = raw.decode("utf-8", errors="backslashreplace").rstrip("\r\n")
        if not line:
            continue
        try:
            batch.append(parse_line(line))
        except MalformedLineError:
            tally.malformed_lines += 1
            if len(tally.malformed_shown) < SHOWN_MALFORMED_LINES:
                tally.malformed_shown.append(f"line {number}: {line[:100]!r}")
        if len(batch) == BATCH_ROWS:
            insert_requests(connection, batch, tally)
            batch = []
    if number == 0:
        raise click.ClickException("The log is empty.")
    insert_requests(connection, batch, tally)
    record = {"sha256": digest.hexdigest(), "size_bytes": size_bytes, "lines": number}
    connection.execute(insert(access_log_imports).values(record))
    return tally


def insert_requests(connection: Connection, batch: list[Request], tally: Tally) -> None:
    """Insert the requests and the accounts that they need, and add them to the tally."""
    if not batch:
        return
    new_clients = {request.client for request in batch} - tally.users
    user_id = billing_accounts.c.user_id
    new_clients -= set(connection.scalars(select(user_id).where(user_id.in_(new_clients))))
    if new_clients:
        connection.execute(
            insert(billing_accounts),
            [
                {"user_id": client, "stripe_customer_id": customer_id(client), "currency": "usd"}
                for client in sorted(new_clients)
            ],
        )
    connection.execute(
        insert(usage_counters),
        [
            {
                "user_id": request.client,
                "cost_cents": request.cost_cents,
                "created_at": request.time,
                "endpoint": request.endpoint,
            }
            for request in batch
        ],
    )
    for request in batch:
        tally.calls += 1
        tally.cents += request.cost_cents
        tally.users.add(request.client)
        tally.months.add(request.time.strftime("%Y-%m"))


def open_log(path: Path) -> IO[bytes]:
    """Open a log, gzipped or not: its first bytes tell."""
    with path.open("rb") as log:
        zipped = log.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    return cast("IO[bytes]", gzip.open(path)) if zipped else path.open("rb")


def import_into(url: DatabaseUrl, access_log: Path, *, skip_malformed: bool) -> Tally:
    """Import a log file in one transaction, after creating the tables that are missing.

    Raises:
        click.ClickException: when the log cannot be read, holds malformed lines that are not to be left
            out, or was imported before: nothing is imported then.
        SpellBillingError: when the database cannot be reached.
    """
    engine = create_engine_for(url)
    try:
        with database_errors(url), engine.begin() as connection, open_log(access_log) as log:
            metadata.create_all(connection)
            tally = import_log(connection, log)
            for shown in tally.malformed_shown:
                click.echo(shown, err=True)
            if tally.malformed_lines and not skip_malformed:
                raise click.ClickException(
                    f"{tally.malformed_lines} lines are no request, so nothing is imported. "
                    "Repair them, or leave them out with --skip-malformed."
                )
            return tally
    except DBAPIError as error:
        raise click.ClickException(f"The database refused: {error.orig}") from None
    except (EOFError, OSError, zlib.error) as error:
        raise click.ClickException(f"{access_log} cannot be read: {error}") from None
    finally:
        engine.dispose()


@click.command()
@click.argument("access_log", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--database-url",
    envvar="DATABASE_URL",
    required=True,
    help="The usage database, SQLite or PostgreSQL, as an SQLAlchemy URL. Default: DATABASE_URL.",
)
@click.option("--skip-malformed", is_flag=True, help="Leave out the lines that are no request.")
def main(access_log: Path, database_url: str, *, skip_malformed: bool) -> None:
    """Bill a web server's log: one usage row per request in ACCESS_LOG, all of them or none."""
    try:
        url = parse_database_url(database_url, setting="DATABASE_URL")
        tally = import_into(url, access_log, skip_malformed=skip_malformed)
    except SpellBillingError as error:
        raise click.ClickException(str(error)) from None
    if tally.malformed_lines:
        click.echo(f"{tally.malformed_lines} malformed lines left out")
    click.echo(f"{tally.calls} calls, {len(tally.users)} users, {tally.cents} cents")
    click.echo(f"Months in UTC: {', '.join(sorted(tally.months))}")


if __name__ == "__main__":
    main()
