"""Users who leave a small platform and are erased."""

import asyncio
from datetime import UTC, datetime

import duckdb
import sqlalchemy as sa

from spell_billing.core.month import Month
from spell_billing.invoicing.erase_user import erasing
from spell_billing.ledger.column_types import metadata
from spell_billing.ledger.moves import record_move
from spell_billing.ledger.rows import Actor
from spell_billing_tests.proof.small_platform import APRIL, MARCH, NOW, SmallPlatform

ANN, BOB = "ann-0001", "bob-0002"


def erase(
    platform: SmallPlatform, user: str = ANN, *, at_platform: bool = False, known_as: str | None = None
) -> str:
    with (
        platform.ledger() as ledger,
        erasing(
            ledger, platform.store, user, at_platform=lambda _: at_platform, now=NOW, known_as=known_as
        ) as work,
    ):

        async def at_stripe() -> None:
            async with platform.gateway() as gateway:
                await work.at_stripe(gateway)

        if work.is_at_stripe:
            asyncio.run(at_stripe())
        work.in_frozen_usage(NOW)
        work.in_ledger(Actor("privacy"), NOW)
        return work.erasure.pseudonym


def pay(platform: SmallPlatform, *months: Month) -> None:
    for invoice in platform.standing():
        if invoice.status == "open":
            platform.person("POST", f"/v1/invoices/{invoice.id}/pay", {"paid_out_of_band": "true"})
    for month in months:
        platform.bill(month, verify=True)


def leave(platform: SmallPlatform, user: str = ANN) -> None:
    """Do what the platform does when a user leaves for good."""
    platform.sql(
        f"DELETE FROM usage_counters WHERE user_id = '{user}'",
        f"DELETE FROM billing_accounts WHERE user_id = '{user}'",
    )


def two_months(platform: SmallPlatform) -> SmallPlatform:
    """Bill March and April, with late usage of Ann for March; all is paid."""
    platform.accounts(ANN, BOB)
    platform.calls(MARCH, (ANN, 1000), (ANN, 234), (BOB, 500))
    platform.bill(MARCH)
    platform.calls(MARCH, (ANN, 50))
    platform.calls(APRIL, (ANN, 70), (BOB, 40))
    platform.bill(APRIL)
    pay(platform, MARCH, APRIL)
    return platform


def everything_stored(platform: SmallPlatform) -> str:
    """Give the text of every column of the ledger, every frozen file, and every name and text at Stripe."""
    with platform.ledger() as ledger, ledger.reading() as connection:
        rows = [
            str(row) for table in metadata.sorted_tables for row in connection.execute(sa.select(table)).all()
        ]
    files = [path for path in platform.store_path.rglob("*") if path.is_file()]
    frozen = [
        str(duckdb.execute(f"SELECT * FROM '{path}'").fetchall())
        if path.suffix == ".parquet"
        else path.read_text()
        for path in files
    ]
    stripe = [str(invoice.metadata) for invoice in platform.double.invoices()]
    stripe += [str(note.metadata) for note in platform.double.state.credit_notes]
    # Whose customer it is, the platform's tables no longer tell.
    return "\n".join([*rows, *frozen, *map(str, files), *stripe]).replace(f"cus_{ANN}", "cus_somebody")


def moved(platform: SmallPlatform, at: datetime = datetime(2100, 1, 1, tzinfo=UTC)) -> None:
    with platform.ledger() as ledger, ledger.writing() as connection:
        record_move(
            connection, ANN, BOB, reason="merged", actor=Actor("x"), has_usage=lambda _: True,
            now=at,
        )  # fmt: skip
