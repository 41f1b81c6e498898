"""A ledger with something of everything that metrics count."""

from datetime import UTC, datetime
from typing import Any

from spell_billing.core.latencies import Latencies
from spell_billing.core.month import Month
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.runs import RunRecord, RunResult
from spell_billing.ledger.schema import events, invoices, months, outbox
from spell_billing.reporting.metrics import MONTHS

NOW = datetime.now(UTC)
LAST = Month.containing(NOW).previous()


def fill(ledger: Ledger) -> None:
    """Fill an empty ledger: the last month is billed, the one before is not."""
    with ledger.writing() as connection:
        connection.execute(
            months.insert(),
            [
                _month(LAST, billed_at=NOW),
                _month(LAST.plus(-1)),
                _month(LAST.plus(-MONTHS), billed_at=NOW),
            ],
        )
        connection.execute(
            invoices.insert(),
            [
                _bill(LAST, 1, "paid", 1234),
                _bill(LAST, 2, "paid", 1000),
                _bill(LAST, 3, "paid", 500, "eur"),
                _bill(LAST, 4, "skipped", -200),
                _bill(LAST.plus(-1), 1, "planned", 700),
                _bill(LAST.plus(-MONTHS), 1, "paid", 99),
            ],
        )
        connection.execute(
            outbox.insert(),
            [
                _message(key, channel=channel, kind="month_unbilled", sent_at=NOW, tries=1)
                for key, channel in (("a", "one"), ("a", "two"), ("b", "one"), ("b", "alerts"))
            ]
            + [_message("b", channel="two", kind="month_unbilled", tries=1)],
        )
        connection.execute(events.insert(), [_event("evt_1"), _event("evt_2", handled_at=NOW)])
        connection.execute(
            outbox.insert(),
            [
                _message("a"),
                _message("b", tries=2),
                _message("c", sent_at=NOW, tries=1),
                _message("d", given_up_at=NOW, error="no_address"),
                _message("e", given_up_at=NOW, error="refused: 550 unknown"),
            ],
        )
    for seconds in (0.2, 0.3, 20.0):
        took = Latencies()
        took.observe(seconds)
        ledger.record_run(
            RunRecord(
                "run",
                str(LAST),
                NOW,
                NOW,
                RunResult.DONE,
                limited=2,
                requests={"POST /v1/invoices": took},
            )
        )
    ledger.record_run(RunRecord("run", str(LAST), NOW, NOW, RunResult.STOPPED))


def _month(month: Month, billed_at: datetime | None = None) -> dict[str, Any]:
    values = {"usage_version": "v0001", "users": 1, "calls": 1, "usage_cents": 1}
    return {"month": str(month), **values, "drafted_at": NOW, "billed_at": billed_at}


def _bill(month: Month, number: int, state: str, cents: int, currency: str = "usd") -> dict[str, Any]:
    zeros = ("included_cents", "covered_cents", "late_cents", "credit_applied_cents", "carried_cents")
    others = ("late_lines", "unbilled_calls", "unbilled_usage_cents", "usage_cents", "calls")
    return {
        **dict.fromkeys((*zeros, *others), 0),
        **dict.fromkeys(("description", "lines", "lines_hash", "run_id"), ""),
        **dict.fromkeys(("created_at", "updated_at"), NOW),
        "month": str(month),
        "user_id": f"user-{number:04d}",
        "generation": 1,
        "request_attempt": 1,
        "state": state,
        "currency": currency,
        "total_cents": cents,
    }


def _event(event_id: str, handled_at: datetime | None = None) -> dict[str, Any]:
    at = {"created_at": NOW, "received_at": NOW, "handled_at": handled_at}
    return {"event_id": event_id, "type": "invoice.paid", "way": "sensor", "content": "{}", **at}


def _message(key: str, **said: Any) -> dict[str, Any]:
    usual = {"channel": "mail", "kind": "finalized", "month": str(LAST), "user_id": "user-0001"}
    at = {
        "payload": "{}",
        "tries": 0,
        "created_at": NOW,
        "next_try_at": NOW,
        "sent_at": None,
        "given_up_at": None,
        "error": None,
    }
    return {"key": key, **usual, **at, **said}
