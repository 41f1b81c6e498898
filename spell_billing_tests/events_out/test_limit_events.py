"""The event of a threshold that was reached: sent and listed as every other, with what was reached."""

import json

import pytest

from spell_billing.core.month import Month
from spell_billing.ledger.thresholds import Reached, note_reached
from spell_billing_tests.events_out.world import Office, Platform

NOVEMBER = Month(2026, 11)


@pytest.mark.both_databases
def test_it_is_sent_once_in_the_order_of_the_user_s_events_and_changes_no_other(
    office: Office, platform: Platform
) -> None:
    office.round(platform.url)
    office.invoice("anna")
    with office.ledger.writing() as connection:
        note_reached(connection, NOVEMBER, {"anna": Reached(80, 4_001, 5_000, "eur")}, office.now)

    office.round(platform.url)
    office.round(platform.url)

    assert platform.told == [("anna", "invoice.finalized"), ("anna", "usage.threshold_reached")]
    finalized, reached = (json.loads(body) for body in platform.bodies)
    assert {**reached, "id": ""} == {
        "id": "",
        "type": "usage.threshold_reached",
        "created_at": office.now.isoformat(),
        "month": "2026-11",
        "user_id": "anna",
        "generation": None,
        "stripe_invoice_id": None,
        "total_cents": None,
        "currency": "eur",
        "state": None,
        "percent": 80,
        "so_far_cents": 4_001,
        "limit_cents": 5_000,
    }
    assert not {"percent", "so_far_cents", "limit_cents", "reached"} & set(finalized)
    assert office.types()[-1] == ("anna", "usage.threshold_reached")
