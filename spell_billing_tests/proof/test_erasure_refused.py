"""Who cannot be erased yet, and what stands still meanwhile."""

from dataclasses import replace
from typing import Any

import duckdb
import pytest

from spell_billing.core.erasure import Erasure
from spell_billing.core.errors import IntegrityError, LedgerError
from spell_billing.core.terms import CARRY, Policy
from spell_billing.ledger.erasing import begin_erasure
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
from spell_billing_tests.proof.small_platform import APRIL, MARCH, MAY, SmallPlatform


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


def small_amount(platform: SmallPlatform) -> None:
    platform.calls(APRIL, (ANN, 10))
    replace(platform, policy=Policy(small_amounts=CARRY)).bill(APRIL)


def fee_in_advance(platform: SmallPlatform) -> None:
    platform.sql("ALTER TABLE billing_plans ADD COLUMN monthly_fee_cents bigint")
    platform.source.plans([{"plan_id": "basic", "name": "Basic", "monthly_fee_cents": 3_100}])
    platform.sql(f"UPDATE billing_accounts SET plan_id = 'basic' WHERE user_id = '{ANN}'")
    replace(platform, policy=Policy(fees_in_advance=True)).bill(APRIL)
    pay(platform, APRIL)


def voided(platform: SmallPlatform) -> None:
    platform.calls(APRIL, (ANN, 1000))
    platform.bill(APRIL)
    platform.void(APRIL, ANN)


def credit_begun(platform: SmallPlatform) -> None:
    note = platform.credit(MARCH, ANN, 20, to_balance=True)
    platform.sql(f"UPDATE ledger_credit_notes SET outcome = NULL WHERE bill_id = {note.bill_id}")


def waiting_mail(platform: SmallPlatform) -> None:
    platform.sql(
        "INSERT INTO ledger_outbox (key, channel, kind, month, user_id, payload, "
        "created_at, tries, next_try_at) VALUES ("
        f"'finalized:x', 'mail', 'finalized', '2025-03', '{ANN}', '{{}}', '2025-04-01 00:00:00', 0, "
        "'2025-04-01 00:00:00')"
    )


@pytest.mark.parametrize(
    ("leave_open", "named"),
    [
        (open_bill, r"invoice in_\w+ for 2025-04 is not paid"),
        (failed_bill, "the bill for 2025-04 is failed"),
        (drafted_bill, "2025-04 is drafted and not billed yet"),
        (credit, r"a credit of \$0.10 is not used"),
        (
            small_amount,
            r"\$0.10 is left for a later invoice \(a row of -10 cents",
        ),
        (fee_in_advance, "fees of 2025-05 were charged in advance, and 2025-05 is not billed"),
        (voided, "the bill for 2025-04 was voided to be billed again"),
        (moved, f"usage moved from {ANN} to {BOB}, and no month was billed since"),
        (credit_begun, r"a credit of \$0.20 for 2025-03 was begun and not completed"),
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


def test_a_user_is_erased_once_what_was_left_for_a_later_invoice_is_given_up(
    light_platform: SmallPlatform,
) -> None:
    light_platform.accounts(ANN, BOB)
    light_platform.calls(MARCH, (ANN, 100), (BOB, 100))
    light_platform.bill(MARCH)
    pay(light_platform, MARCH)
    small_amount(light_platform)
    light_platform.calls(MAY, (ANN, -10))
    light_platform.bill(MAY)
    leave(light_platform)

    erase(light_platform)

    for month in (MARCH, APRIL, MAY):
        light_platform.must_agree(month)


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
