"""An erased user has a pseudonym at Stripe, in the ledger and in the frozen files; every amount stays."""

import asyncio
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from spell_billing.core.erasure import Erasure, is_pseudonym
from spell_billing.core.errors import IntegrityError, LedgerError
from spell_billing.core.month import Month
from spell_billing.core.outcomes import State
from spell_billing.invoicing import erase_user
from spell_billing.invoicing.erase_user import erasing
from spell_billing.invoicing.gateway import Gateway
from spell_billing.ledger import erasing as ledger_erasing
from spell_billing.ledger.erasing import TEXTS, begin_erasure
from spell_billing.ledger.moves import record_move
from spell_billing.ledger.rows import Actor
from spell_billing.ledger.schema import metadata
from spell_billing.usage import erasing as store_erasing
from spell_billing_tests.proof.small_platform import APRIL, JUNE, MARCH, MAY, NOW, SmallPlatform

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
    # Whose customer it is, the platform's tables no longer tell.
    return "\n".join([*rows, *frozen, *map(str, files), *stripe]).replace(f"cus_{ANN}", "cus_somebody")


def test_the_id_is_nowhere_and_every_amount_stays(platform: SmallPlatform) -> None:
    two_months(platform)
    totals = [(invoice.id, invoice.total_cents) for invoice in platform.standing()]
    before = {month: platform.must_agree(month) for month in (MARCH, APRIL)}
    assert ANN in everything_stored(platform)
    leave(platform)

    pseudonym = erase(platform)

    assert is_pseudonym(pseudonym)
    assert ANN not in everything_stored(platform)
    assert [(invoice.id, invoice.total_cents) for invoice in platform.standing()] == totals
    for month in (MARCH, APRIL):
        after = platform.must_agree(month)
        assert (after.frozen_calls, after.frozen_usage_cents) == (
            before[month].frozen_calls,
            before[month].frozen_usage_cents,
        )
        assert after.ledger_cents == before[month].ledger_cents
    assert platform.bill_of(MARCH, pseudonym).total_cents == 1234
    assert platform.lines(APRIL, pseudonym) == [("usage", 70), ("late_usage", 50)]
    assert platform.explain(MARCH, pseudonym)["user_id"] == pseudonym


def test_the_erasure_stands_in_the_audit_trail_which_is_append_only_again(platform: SmallPlatform) -> None:
    two_months(platform)
    leave(platform)
    pseudonym = erase(platform)

    with platform.ledger() as ledger:
        entry = ledger.audit_trail(Month.containing(NOW), pseudonym)[-1]
    assert (entry["action"], entry["actor"], entry["user_id"]) == ("user_erased", "privacy", pseudonym)
    assert entry["detail"] == "2 bills, 2 invoices at Stripe, 2 frozen versions"
    for statement in ("UPDATE ledger_audit SET detail = 'x'", "DELETE FROM ledger_audit"):
        with pytest.raises(Exception, match="append-only"):
            platform.sql(statement)


def test_a_manifest_notes_the_erasure_and_has_the_new_hashes(light_platform: SmallPlatform) -> None:
    two_months(light_platform)
    leave(light_platform)
    pseudonym = erase(light_platform)

    for month in (MARCH, APRIL):
        frozen = light_platform.store.latest(month)
        assert frozen is not None
        light_platform.store.verify(frozen)
        assert [each.pseudonym for each in frozen.manifest.erased] == [pseudonym]


def test_the_next_month_neither_charges_nor_credits_nor_adopts_anything(platform: SmallPlatform) -> None:
    two_months(platform)
    leave(platform)
    pseudonym = erase(platform)
    platform.calls(MAY, (BOB, 60))

    for month in (MARCH, APRIL, MAY):
        platform.bill(month, verify=True)

    assert [invoice.total_cents for invoice in platform.standing()][-1] == 60
    assert len(platform.standing()) == 5
    assert platform.generations(MAY, pseudonym) == platform.generations(MARCH, ANN) == []
    for month in (MARCH, APRIL, MAY):
        platform.must_agree(month)


def test_a_lost_ledger_finds_the_invoices_under_the_pseudonym_alone(light_platform: SmallPlatform) -> None:
    two_months(light_platform)
    leave(light_platform)
    pseudonym = erase(light_platform)
    light_platform.lose_the_ledger()
    light_platform.bill(MARCH)

    assert light_platform.generations(MARCH, ANN) == []
    assert light_platform.bill_of(MARCH, pseudonym).total_cents == 1234


@pytest.mark.parametrize("files", ["kept", "restored"])
def test_a_ledger_from_before_the_invoice_and_the_erasure_charges_nobody_again(
    light_platform: SmallPlatform, files: str, tmp_path: Path
) -> None:
    """The backup knows the user by the old id, with a bill that it never saw sent."""
    light_platform.accounts(ANN, BOB)
    light_platform.calls(MARCH, (ANN, 1000), (BOB, 500))
    light_platform.draft(MARCH)
    database = Path(light_platform.url.removeprefix("sqlite:///"))
    light_platform.sql("PRAGMA wal_checkpoint(TRUNCATE)")
    backup = shutil.copy(database, tmp_path / "backup.db")
    frozen = shutil.copytree(light_platform.store_path, tmp_path / "frozen")
    light_platform.bill(MARCH)
    pay(light_platform, MARCH)
    leave(light_platform)
    pseudonym = erase(light_platform)
    for each in database.parent.glob(f"{database.name}-*"):
        each.unlink()
    shutil.copy(backup, database)
    if files == "restored":
        shutil.rmtree(light_platform.store_path)
        shutil.copytree(frozen, light_platform.store_path)
    leave(light_platform)

    with pytest.raises(LedgerError, match="is not the pseudonym of a user"):
        erase(light_platform, known_as="ann")
    assert erase(light_platform, known_as=pseudonym) == pseudonym
    # As a backup would have it that was made while the first invoices were sent.
    with light_platform.ledger() as ledger, ledger.session(MARCH, Actor("x")) as session:
        session.start_billing()
    light_platform.bill(MARCH)

    assert sorted(invoice.total_cents for invoice in light_platform.standing()) == [500, 1000]
    assert light_platform.bill_of(MARCH, pseudonym).state is State.PAID
    assert ANN not in everything_stored(light_platform)
    light_platform.must_agree(MARCH)


@pytest.mark.parametrize("kind", ["uuid", "text"])
def test_ids_of_any_type_and_fractions_of_cents_stay_exact(
    make_source_tables: Any, double: Any, postgres_url: str, tmp_path: Path, kind: str
) -> None:
    user, other = "6f9619ff-8b86-d011-b42d-00c04fc964ff", "7f9619ff-8b86-d011-b42d-00c04fc964ff"
    tables = make_source_tables(postgres_url, cost_cents="numeric", user_id=kind)
    platform = SmallPlatform(postgres_url, tables, double, tmp_path / "usage")
    platform.accounts(user, other)
    platform.calls(MARCH, (user, Decimal("100.25")), (user, Decimal("0.5")), (other, Decimal("70.125")))
    platform.bill(MARCH)
    pay(platform, MARCH)
    platform.calls(APRIL, (other, Decimal(100)))
    leave(platform, user)
    pseudonym = erase(platform, user)

    platform.bill(APRIL)
    assert platform.generations(APRIL, pseudonym) == []
    assert platform.bill_of(MARCH, pseudonym).usage_cents == Decimal("100.75")
    assert platform.explain(MARCH, pseudonym)["user_id"] == pseudonym
    for month in (MARCH, APRIL):
        platform.must_agree(month)


def test_of_two_users_who_became_one_either_can_be_erased_once_the_move_is_billed(
    light_platform: SmallPlatform,
) -> None:
    light_platform.accounts(ANN, BOB)
    light_platform.calls(MARCH, (ANN, 1000), (BOB, 500))
    light_platform.bill(MARCH)
    light_platform.sql(f"UPDATE usage_counters SET user_id = '{BOB}' WHERE user_id = '{ANN}'")
    moved(light_platform, NOW - timedelta(days=1))
    light_platform.bill(APRIL)
    pay(light_platform, MARCH, APRIL)
    leave(light_platform)
    erase(light_platform)
    light_platform.bill(MAY)
    leave(light_platform, BOB)
    pay(light_platform)
    erase(light_platform, BOB)
    light_platform.bill(JUNE)

    assert sorted(invoice.total_cents for invoice in light_platform.standing()) == [500, 1000]
    for month in (MARCH, APRIL, MAY, JUNE):
        light_platform.must_agree(month)


def test_two_users_are_erased_one_after_the_other(light_platform: SmallPlatform) -> None:
    two_months(light_platform)
    for user in (ANN, BOB):
        leave(light_platform, user)
        erase(light_platform, user)
    frozen = light_platform.store.latest(APRIL)
    assert frozen is not None
    assert len(frozen.manifest.erased) == 2
    light_platform.bill(MAY)
    for month in (MARCH, APRIL, MAY):
        light_platform.must_agree(month)


def test_another_user_whose_id_holds_the_erased_one_keeps_it(light_platform: SmallPlatform) -> None:
    others = (f"{ANN}-b", f"x{ANN}", f"{ANN}.org")
    light_platform.accounts(ANN, *others)
    light_platform.calls(MARCH, (ANN, 100), *((other, 100) for other in others))
    light_platform.bill(MARCH)
    pay(light_platform, MARCH)
    leave(light_platform)
    erase(light_platform)
    assert all(light_platform.bill_of(MARCH, other).state is State.PAID for other in others)
    light_platform.must_agree(MARCH)


def open_bill(platform: SmallPlatform) -> None:
    platform.calls(APRIL, (ANN, 1000))
    platform.bill(APRIL)


def failed_bill(platform: SmallPlatform) -> None:
    platform.calls(APRIL, (ANN, 1000))
    leave_account = f"DELETE FROM billing_accounts WHERE user_id = '{ANN}'"
    platform.sql(leave_account)
    platform.bill(APRIL)


def drafted_bill(platform: SmallPlatform) -> None:
    platform.calls(APRIL, (ANN, 1000))
    platform.draft(APRIL)


def credit(platform: SmallPlatform) -> None:
    platform.calls(APRIL, (ANN, -10))
    platform.bill(APRIL)


def voided(platform: SmallPlatform) -> None:
    platform.calls(APRIL, (ANN, 1000))
    platform.bill(APRIL)
    platform.void(APRIL, ANN)


def moved(platform: SmallPlatform, at: datetime = datetime(2100, 1, 1, tzinfo=UTC)) -> None:
    with platform.ledger() as ledger, ledger.writing() as connection:
        record_move(
            connection, ANN, BOB, reason="merged", actor=Actor("x"), has_usage=lambda _: True,
            now=at,
        )  # fmt: skip


def waiting_mail(platform: SmallPlatform) -> None:
    platform.sql(
        "INSERT INTO ledger_outbox (key, template, month, user_id, content, created_at, tries, next_try_at) "
        f"VALUES ('finalized:x', 'finalized', '2025-03', '{ANN}', '{{}}', '2025-04-01 00:00:00', 0, "
        "'2025-04-01 00:00:00')"
    )


@pytest.mark.parametrize(
    ("leave_open", "named"),
    [
        (open_bill, r"invoice in_\w+ for 2025-04 is not paid"),
        (failed_bill, "the bill for 2025-04 is failed"),
        (drafted_bill, "2025-04 is drafted and not billed yet"),
        (credit, r"a credit of \$0.10 is not used"),
        (voided, "the bill for 2025-04 was voided to be billed again"),
        (moved, f"usage moved from {ANN} to {BOB}, and no month was billed since"),
        (waiting_mail, "a mail about 2025-03 waits to be sent"),
    ],
)
def test_nobody_is_erased_while_something_is_open(
    light_platform: SmallPlatform, leave_open: Any, named: str
) -> None:
    light_platform.accounts(ANN, BOB)
    light_platform.calls(MARCH, (ANN, 100), (BOB, 100))
    light_platform.bill(MARCH)
    pay(light_platform, MARCH)
    leave_open(light_platform)
    leave(light_platform)
    before = everything_stored(light_platform)

    with pytest.raises(LedgerError, match=f"User {ANN} cannot be erased yet: {named}") as refusal:
        erase(light_platform)

    assert "settle" in refusal.value.remedy
    assert everything_stored(light_platform) == before


def test_nobody_is_erased_whom_the_platform_still_has_or_nobody_knows(light_platform: SmallPlatform) -> None:
    two_months(light_platform)
    with pytest.raises(LedgerError, match="The platform still has an account"):
        erase(light_platform, at_platform=True)
    with pytest.raises(LedgerError, match="has no bill and no frozen usage"):
        erase(light_platform, "ann-0002")
    leave(light_platform)
    pseudonym = erase(light_platform)
    with pytest.raises(LedgerError, match="is erased already"):
        erase(light_platform, pseudonym)


def test_an_altered_file_gets_no_new_hash(light_platform: SmallPlatform) -> None:
    two_months(light_platform)
    leave(light_platform)
    frozen = light_platform.store.latest(MARCH)
    assert frozen is not None
    path = frozen.directory / frozen.manifest.files[0].name
    altered = path.with_name("altered.tmp")
    duckdb.sql(
        f"COPY (SELECT * REPLACE (cost_cents + 1 AS cost_cents) FROM '{path}') "
        f"TO '{altered}' (FORMAT parquet)"
    )
    altered.rename(path)
    with pytest.raises(IntegrityError, match="is not what was frozen"):
        erase(light_platform)


def test_nothing_is_billed_while_an_erasure_is_unfinished(light_platform: SmallPlatform) -> None:
    two_months(light_platform)
    leave(light_platform)
    with light_platform.ledger() as ledger, ledger.writing() as connection:
        begin_erasure(connection, Erasure(ANN, "erased-0123456789ab"))

    for act in (light_platform.bill, light_platform.reconcile):
        with pytest.raises(LedgerError, match=f"The erasure of user {ANN} was not completed"):
            act(APRIL)

    assert erase(light_platform) == "erased-0123456789ab"
    light_platform.bill(APRIL, verify=True)
    light_platform.must_agree(APRIL)


class Killed(BaseException):
    """Ends a step where a signal would."""


def test_an_erasure_that_was_interrupted_anywhere_is_completed_by_the_next(
    platform: SmallPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time one step further; `test_cli_erase` does the same with processes that are killed."""
    two_months(platform)
    leave(platform)
    steps: Iterator[int] = iter(())
    interrupted: list[str] = []

    def counted(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def step(*arguments: Any, **named: Any) -> Any:
            if next(steps, None) is None:
                interrupted.append(name)
                raise Killed
            return real(*arguments, **named)

        monkeypatch.setattr(owner, name, step)

    for owner, names in (
        (erase_user, ("begin_erasure", "erase_in_ledger")),
        (ledger_erasing, ("_rewrite", "_keep_approval", "move_cursor")),
        (store_erasing, ("write_manifest", "aggregate", "RowWriter", "finished_file", "sync_directory")),
        (Gateway, ("send",)),
    ):
        for name in names:
            counted(owner, name)
    pseudonym = ""
    while not pseudonym:
        steps = iter(range(len(interrupted)))
        try:
            pseudonym = erase(platform)
        except Killed:
            continue
    steps = iter(range(1_000))

    assert set(interrupted) >= {"send", "RowWriter", "write_manifest", "aggregate", "_rewrite"}
    assert ANN not in everything_stored(platform)
    assert platform.bill_of(MARCH, pseudonym).total_cents == 1234
    for month in (MARCH, APRIL):
        platform.bill(month, verify=True)
        platform.must_agree(month)
    assert len(platform.standing()) == 4


def test_every_column_of_text_was_looked_at() -> None:
    """A new column of free text belongs into `TEXTS`, or into this list of those that name no user."""
    name_nobody = {
        *("state", "reason", "currency", "plan_id", "description", "lines", "lines_hash", "month", "run_id"),
        *("stripe_customer_id", "stripe_invoice_id", "stripe_request_id", "actor", "action", "from_state"),
        *(
            "to_state",
            "status",
            "decline_code",
            "hosted_invoice_url",
            "invoice_pdf",
            "way",
            "event_id",
            "type",
        ),
        *("outcome", "name", "key", "channel", "kind", "template", "result", "requests", "drafts_hash"),
        *("content_hash", "mode", "account_id", "usage_version"),
    }
    ids = {"user_id", "from_user", "to_user"}
    for table in metadata.sorted_tables:
        for column in table.columns:
            if isinstance(column.type, sa.String) and column.name not in ids:
                assert column.name in TEXTS.get(table.name, ()) or column.name in name_nobody, column


PSEUDONYM = "erased-0123456789ab"


@pytest.mark.parametrize(
    ("user", "text", "renamed"),
    [
        ("u-1", "user u-1, u-12 and x-u-1: u-1.", "user {}, u-12 and x-u-1: {}."),
        ("u-1", "u-1 -> u-2: merged u-1", "{} -> u-2: merged {}"),
        ("12", "12 users, 12 calls of user 12: 12 cents", "12 users, 12 calls of user {}: 12 cents"),
        ("12", "Users: 11, 12, 13", "Users: 11, {}, 13"),
        ("12", "12 -> 13: ticket 12", "{} -> 13: ticket 12"),
        ("12", "spell:2025-03:12:g1", "spell:2025-03:{}:g1"),
        ("a b", "--from 'a b' --to c", "--from {} --to c"),
        ("ann@x.org", "ann@x.org and ann@x.org.uk", "{} and ann@x.org.uk"),
    ],
)  # fmt: skip
def test_in_a_text_the_id_goes_and_the_rest_stays(user: str, text: str, renamed: str) -> None:
    assert Erasure(user, PSEUDONYM).in_text(text) == renamed.format(*[PSEUDONYM] * 3)


@given(st.text(min_size=1))
def test_any_id_is_replaced_where_a_text_names_it(user: str) -> None:
    named = Erasure(user, PSEUDONYM).in_json({"user": user, "text": f"user {user} is held", "cents": 5})
    assert named == {"user": PSEUDONYM, "text": f"user {PSEUDONYM} is held", "cents": 5}
