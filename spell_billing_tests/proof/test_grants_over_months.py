"""For any order of grants, drafts and voids: charged + paid by grants = due, and no cent of a grant twice."""

from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spell_billing.core.drafting import Account, draft_invoice
from spell_billing.core.month import Month
from spell_billing.invoicing.grant_findings import grant_findings
from spell_billing.ledger.grants import add_grant, read_ledger_grants, revoke_grant
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.queries import read_bills
from spell_billing.ledger.rows import Actor
from spell_billing.ledger.schema import invoices
from spell_billing_tests.proof.small_platform import SmallPlatform

MONTHS = [Month(2025, number) for number in (3, 4, 5)]
NOW = datetime(2025, 3, 1, tzinfo=UTC)
TESTER = Actor("tester", "run-1")
ACCOUNT = Account("cus_1")
SERIAL = count(1)
MONTH = st.integers(0, 2)
STEPS = st.lists(
    st.tuples(st.just("grant"), st.integers(1, 900), st.integers(1, 3), st.booleans())
    | st.tuples(st.just("draft"), st.integers(0, 1200), MONTH, st.booleans())
    | st.tuples(st.sampled_from(["void", "revoke"]), st.just(0), MONTH, st.booleans()),
    min_size=3,
    max_size=9,
)


def do(ledger: Ledger, user: str, step: tuple[str, int, int, bool], made: list[str]) -> None:
    what, cents, place, flag = step
    if what == "draft":
        month = MONTHS[place]
        with ledger.session(month, TESTER, drafting=True) as session:
            found = session.history(())
            draft = draft_invoice(
                month,
                user,
                calls=1,
                usage_cents=Decimal(cents),
                account=ACCOUNT,
                grants=found.grants.get(user, ()),
            )
            session.replace_drafts([draft], usage_version="v1", calls=1, usage_cents=Decimal(cents))
        return
    with ledger.writing() as connection:
        if what == "grant":
            made.append(f"grant-{next(SERIAL)}")
            expires_on = MONTHS[0].plus(place).start.date()
            add_grant(
                connection,
                made[-1],
                user,
                cents,
                "usd",
                expires_on=expires_on,
                is_paid=flag,
                reason="agreed",
                actor=TESTER,
                now=NOW,
            )
        elif what == "revoke" and made:
            revoke_grant(connection, made[place % len(made)], reason="undone", actor=TESTER, now=NOW)
        elif what == "void":
            of_month = invoices.c.month == str(MONTHS[place])
            connection.execute(invoices.update().where(of_month).values(state="void", reason="voided"))


def check(ledger: Ledger, user: str, step: tuple[str, int, int, bool]) -> None:
    with ledger.reading() as connection:
        grants = {each.grant_id: each for each in read_ledger_grants(connection, [user])}
        used: Counter[str] = Counter()
        for month in MONTHS:
            for bill in read_bills(connection, month):
                assert list(grant_findings(connection, {user: bill})) == []
                own = {
                    str(line.grant_id): -line.amount_cents
                    for line in bill.parsed_lines
                    if line.kind == "grant"
                }
                assert bill.total_cents + sum(own.values()) == bill.usage_cents
                if bill.state != "void":
                    used.update(own)
    for grant_id, each in grants.items():
        assert each.applied_cents == used[grant_id]
        assert 0 <= each.left_cents == each.amount_cents - each.revoked_cents - used[grant_id]
    if step[0] == "draft":
        month = MONTHS[step[2]]
        with ledger.reading() as connection:
            (bill,) = read_bills(connection, month)
        usable = [each for each in grants.values() if each.expires_on > month.start.date()]
        assert bill.total_cents == 0 or not any(each.left_cents for each in usable)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(steps=STEPS)
def test_what_was_charged_and_what_grants_paid_is_what_was_due(
    light_platform: SmallPlatform, steps: list[Any]
) -> None:
    user, made = f"user-{next(SERIAL):06d}", list[str]()
    with light_platform.ledger() as ledger:
        ledger.months()
        light_platform.lose_the_ledger()
        for step in steps:
            do(ledger, user, step, made)
            check(ledger, user, step)
