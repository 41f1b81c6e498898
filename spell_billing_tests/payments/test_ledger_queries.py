"""The queries of docs/ledger.md, as written there, say what the ledger's own reports say."""

import re
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from spell_billing.reporting.status import month_status
from spell_billing_tests.payments.world import ONE, TWO, World
from spell_billing_tests.proof.small_platform import MARCH, NOW

PAGE = (Path(__file__).parents[2] / "docs" / "ledger.md").read_text()
REVENUE, HISTORY = re.findall(r"```sql\n(.+?);\n```", PAGE, re.DOTALL)


@pytest.mark.both_databases
def test_the_queries_of_the_docs_give_revenue_by_month_and_a_users_history(world: World) -> None:
    world.bill(ONE, TWO, cards={TWO: "declined"})
    world.advance()
    world.tick()
    charge = next(each for each in world.double.state.charges if each.customer == f"cus_{ONE}")
    world.platform.person("POST", "/v1/refunds", {"charge": charge.id, "amount": 400})
    world.tick()

    with world.ledger() as ledger, ledger.reading() as connection:
        (revenue,) = _rows(connection, REVENUE)
        history = _rows(connection, HISTORY)
        status = month_status(ledger, MARCH, NOW).as_json()

    assert revenue == {
        "month": str(MARCH),
        "currency": "usd",
        "invoices": status["invoiced"],
        "net_cents": status["invoiced_cents"],
        "tax_cents": 0,
        "paid_cents": status["paid_cents"],
        "back_cents": status["refunded_cents"],
    }
    assert (revenue["net_cents"], revenue["paid_cents"], revenue["back_cents"]) == (2000, 1000, 400)
    assert [each["to_state"] for each in history if each["to_state"] != each["from_state"]] == [
        "drafted",
        "finalized",
        "paid",
    ]


def _rows(connection: sa.Connection, query: str) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(sa.text(query)).mappings()]
