"""An erased user has a pseudonym at Stripe, in the ledger and in the frozen files; every amount stays."""

import shlex
import shutil
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from spell_billing.alerts.alert import Alert
from spell_billing.core.erasure import is_pseudonym
from spell_billing.core.errors import LedgerError
from spell_billing.core.month import Month
from spell_billing.core.outcomes import State
from spell_billing.core.shown import one_line
from spell_billing.ledger.credit_notes import read_credit_notes
from spell_billing.ledger.grants import add_grant, read_ledger_grants, revoke_grant
from spell_billing.ledger.outbox import put
from spell_billing.ledger.rows import Actor
from spell_billing_tests.proof.leavers import (
    ANN,
    BOB,
    erase,
    everything_stored,
    leave,
    moved,
    pay,
    two_months,
)
from spell_billing_tests.proof.small_platform import APRIL, JUNE, MARCH, MAY, NOW, SmallPlatform


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


def test_a_user_who_was_credited_is_erased_too(platform: SmallPlatform) -> None:
    two_months(platform)
    platform.credit(MARCH, ANN, 200, f"agreed with {ANN}", to_balance=True)
    leave(platform)

    pseudonym = erase(platform)

    assert ANN not in everything_stored(platform)
    with platform.ledger() as ledger, ledger.reading() as connection:
        (note,) = read_credit_notes(connection, [platform.bill_of(MARCH, pseudonym).id])
    assert (note.reason, note.cents) == (f"agreed with {pseudonym}", 200)
    platform.must_agree(MARCH)


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


@pytest.mark.parametrize("user", ["mel\x1b[31m", "mel\nmay", "mel\ttone"])
def test_an_id_that_an_alert_spells_out_is_erased_from_it_too(
    light_platform: SmallPlatform, user: str
) -> None:
    light_platform.accounts(user)
    light_platform.calls(MARCH, (user, 100))
    light_platform.bill(MARCH)
    pay(light_platform, MARCH)
    command = f"spell-billing explain --user {shlex.quote(user)}"
    alert = Alert("key", "kind", f"Payment failed: {user}, 2025-03", one_line(f"Of {user}. Next: {command}"))
    with light_platform.ledger() as ledger, ledger.writing() as connection:
        put(connection, [alert.on()])
    assert "mel" in everything_stored(light_platform)
    leave(light_platform, user)

    erase(light_platform, user)

    # The customer of a bill is Stripe's name.
    assert "mel" not in everything_stored(light_platform).replace("cus_mel", "")


def test_rows_that_lost_their_user_are_no_late_usage_of_the_pseudonym(
    make_source_tables: Any, double: Any, sqlite_url: str, tmp_path: Path
) -> None:
    tables = make_source_tables(sqlite_url, not_null=False)
    platform = two_months(SmallPlatform(sqlite_url, tables, double, tmp_path / "usage"))
    platform.sql(f"UPDATE usage_counters SET user_id = NULL WHERE user_id = '{ANN}'")
    leave(platform)
    pseudonym = erase(platform)
    platform.bill(MAY)
    assert platform.generations(MAY, pseudonym) == []
    for month in (MARCH, APRIL, MAY):
        platform.must_agree(month)


@pytest.mark.both_databases
def test_a_user_is_erased_once_the_grant_is_used_or_taken_back(platform: SmallPlatform) -> None:
    with platform.ledger() as ledger, ledger.writing() as connection:
        add_grant(
            connection,
            "welcome",
            ANN,
            2000,
            "usd",
            expires_on=JUNE.start.date(),
            is_paid=False,
            reason=f"agreed with {ANN}",
            actor=Actor("support"),
            now=MARCH.start,
        )
    two_months(platform)
    leave(platform)
    with pytest.raises(LedgerError, match=r"\$6\.46 of grant welcome is not used"):
        erase(platform)
    with platform.ledger() as ledger, ledger.writing() as connection:
        revoke_grant(connection, "welcome", reason=f"{ANN} left", actor=Actor("support"), now=MARCH.start)

    pseudonym = erase(platform)

    assert ANN not in everything_stored(platform)
    with platform.ledger() as ledger, ledger.reading() as connection:
        (grant,) = read_ledger_grants(connection)
    assert (grant.user_id, grant.reason) == (pseudonym, f"agreed with {pseudonym}")
    assert (grant.amount_cents, grant.applied_cents, grant.left_cents) == (2000, 1354, 0)
    for month in (MARCH, APRIL):
        platform.must_agree(month)
    with pytest.raises(Exception, match="append-only"):
        platform.sql("UPDATE ledger_credits SET amount_cents = 1")
