"""Months of a platform's life in the real ledger and store, without Stripe: bills change state by decree."""

from collections import defaultdict
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import sqlalchemy as sa

from spell_billing.core.month import Month
from spell_billing.core.outcomes import UNDONE, Reason, State
from spell_billing.ledger.credits import credits_of, settle_credit
from spell_billing.ledger.moves import record_move
from spell_billing.ledger.rows import Actor, Bill, Change
from spell_billing_tests.proof.small_platform import MARCH, NOW, SmallPlatform

SENT = {State.FINALIZED, State.PAYMENT_FAILED}
CLOSED = {State.VOID, State.SETTLED}
STUCK = {State.FAILED, State.HELD, State.PARKED}
ACTIONS: dict[str, tuple[set[State], State, Reason | None]] = {
    "pay": (SENT, State.PAID, None),
    "pay after all": ({State.UNCOLLECTIBLE}, State.PAID, None),
    "decline": ({State.FINALIZED}, State.PAYMENT_FAILED, None),
    "give up": (SENT, State.UNCOLLECTIBLE, None),
    "park": (SENT, State.PARKED, Reason.VOIDED_AT_STRIPE),
    "void": (SENT | {State.PARKED}, State.VOID, Reason.VOIDED),
    "void for good": (SENT | {State.PARKED}, State.VOID, Reason.WRITTEN_OFF),
    "bill by hand": (STUCK, State.SETTLED, Reason.BILLED_BY_HAND),
    "write off": (STUCK, State.SETTLED, Reason.WRITTEN_OFF),
    "bill by hand after all": (CLOSED, State.SETTLED, Reason.BILLED_BY_HAND),
    "write off after all": (CLOSED, State.SETTLED, Reason.WRITTEN_OFF),
}
"""What people and Stripe do to a bill: from which states, and what it then is."""
WHO = Actor("test")
TABLES = ("invoices", "months", "moves", "decisions")
_STORES = count()


def waits(bill: Bill) -> bool:
    """Tell whether the bill is drafted again with its month."""
    return bill.state in {State.FAILED, State.HELD} or bill.reason is Reason.VOIDED


@dataclass
class Charged:
    """What the ledger's bills say was charged for one user's usage of a month."""

    cents: int = 0
    forgiven_cents: int = 0
    forgiven_late_cents: int = 0
    withheld_cents: int = 0


@dataclass
class Years:
    """A platform that lives from month to month; March is the first."""

    platform: SmallPlatform
    plans: dict[str, int]
    now: Month = MARCH
    currency: dict[str, str] = field(default_factory=dict)
    moved: set[str] = field(default_factory=set)
    lowest: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    """The least that a user's usage of a month was rated at when a bill was drafted, at most zero."""

    def __post_init__(self) -> None:
        """Begin with nothing, whatever an example before has left."""
        platform = self.platform
        with platform.ledger():
            pass
        platform.sql(
            *(f"DELETE FROM ledger_{table}" for table in TABLES),
            *(f"DELETE FROM {table}" for table in ("usage_counters", "billing_accounts", "billing_plans")),
        )
        root = platform.store_path
        platform.store_path = Path(f"{str(root).split('+')[0]}+{next(_STORES)}")
        plans = [{"plan_id": f"p{user}", "name": user, "included_cents": n} for user, n in self.plans.items()]
        platform.source.plans(plans)

    def ago(self, months: int) -> Month:
        """Give the month so many months before the present one, at the earliest the first."""
        return max(MARCH, self.now.plus(-months))

    def account(self, user: str) -> None:
        if user not in self.currency:
            self.currency[user] = "usd"
            columns = {"stripe_customer_id": f"cus_{user}", "plan_id": f"p{user}"}
            self.platform.source.accounts([{"user_id": user, **columns}])

    def change_currency(self, user: str) -> None:
        if user in self.currency:
            self.currency[user] = other = "eur" if self.currency[user] == "usd" else "usd"
            self.platform.sql(f"UPDATE billing_accounts SET currency = '{other}' WHERE user_id = '{user}'")

    def lose(self, user: str, month: Month) -> None:
        """Delete the user's newest row of the month."""
        rows = f"FROM usage_counters WHERE user_id = '{user}' AND created_at LIKE '{month}%'"
        self.platform.sql(f"DELETE FROM usage_counters WHERE id = (SELECT max(id) {rows})")

    def move(self, old: str, new: str) -> None:
        self.moved |= {old, new}
        self.platform.sql(f"UPDATE usage_counters SET user_id = '{new}' WHERE user_id = '{old}'")
        with self.platform.ledger() as ledger, ledger.writing() as connection:
            what = {"reason": "merged", "actor": WHO, "now": NOW}
            record_move(connection, old, new, has_usage=lambda _: True, **what)  # type: ignore[arg-type]

    def bill(self, month: Month) -> None:
        """Freeze and draft the month; whatever is planned is invoiced at once."""
        for (user, of), cents in self.used().items():
            due = cents - min(self.plans[user], max(0, cents))
            self.lowest[user, of] = min(self.lowest[user, of], due)
        self.platform.draft(month)
        with self.platform.ledger() as ledger, ledger.session(month, WHO) as session:
            session.start_billing()
            planned = session.page([State.PLANNED], after_id=0, limit=100)
            sent = [
                replace(bill, state=State.FINALIZED, stripe_invoice_id=f"in_{bill.id}") for bill in planned
            ]
            session.apply([Change(*pair, "sent") for pair in zip(planned, sent, strict=True)])
            if next(ledger.bills(month, UNDONE), None) is None:
                session.finish_billing()

    def is_drafted(self, month: Month) -> bool:
        with self.platform.ledger() as ledger:
            return ledger.month(month) is not None

    def act(self, user: str, month: Month, action: str) -> None:
        """Do something to the user's bill of a month, where its state allows it."""
        states, state, reason = ACTIONS[action]
        with self.platform.ledger() as ledger:
            bills = ledger.bills_of_user(month, user)
            if bills and bills[-1].state in states:
                with ledger.session(month, WHO) as session:
                    after = replace(bills[-1], state=state, reason=reason)
                    session.apply([Change(bills[-1], after, action)])

    def latest(self) -> list[Bill]:
        """Give each user's latest bill of each month."""
        with self.platform.ledger() as ledger:
            bills = [bill for record in ledger.months() for bill in ledger.bills(Month.parse(record.month))]
        bills.sort(key=lambda bill: bill.generation)
        return list({(bill.user_id, bill.month): bill for bill in bills}.values())

    def finish(self) -> None:
        """Close every bill: nobody lacks an account, and a person deals with whatever is held."""
        for user in self.plans:
            self.account(user)
        for _ in range(3):
            self.bill(self.now)
            for bill in self.latest():
                self.act(
                    bill.user_id, Month.parse(bill.month), "void" if bill.state is State.PARKED else "pay"
                )
            for month in sorted({bill.month for bill in self.latest() if waits(bill)}):
                self.bill(Month.parse(month))
            for bill in self.latest():
                if bill.state is State.HELD:
                    self.act(bill.user_id, Month.parse(bill.month), "bill by hand")
            self._settle_credits()
            self.now = self.now.next()
        assert {bill.state for bill in self.latest()} & (STUCK | {State.PLANNED}) == set()

    def _settle_credits(self) -> None:
        with self.platform.ledger() as ledger, ledger.writing() as connection:
            for user in self.plans:
                for credit in credits_of(connection, user):
                    if credit.currency != self.currency[user]:
                        settle_credit(
                            connection, self.now, user, credit.currency, reason="by hand", actor=WHO
                        )

    def charged(self) -> dict[tuple[str, str], Charged]:
        """Sum what lines charge, by user and month of the usage, by what their bill is worth now."""
        found: defaultdict[tuple[str, str], Charged] = defaultdict(Charged)
        for bill in self.latest():
            amounts: defaultdict[str, int] = defaultdict(int)
            for line in bill.parsed_lines:
                if line.kind != "credit":
                    amounts[line.usage_month] += line.amount_cents
            for month, cents in amounts.items():
                about = found[bill.user_id, month]
                if bill.reason is not Reason.WRITTEN_OFF and bill.state is not State.UNCOLLECTIBLE:
                    about.cents += cents
                elif cents > 0:
                    about.forgiven_cents += cents
                    about.forgiven_late_cents += cents if month != bill.month else 0
                elif bill.state is not State.VOID:
                    about.withheld_cents -= cents
        return found

    def used(self) -> dict[tuple[str, str], int]:
        """Sum the platform's rows as they are now."""
        query = "SELECT user_id, substr(created_at, 1, 7), sum(cost_cents) FROM usage_counters GROUP BY 1, 2"
        with sa.create_engine(self.platform.url).connect() as connection:
            return {(user, month): cents for user, month, cents in connection.execute(sa.text(query))}

    def credits_left(self) -> list[tuple[str, str, int]]:
        """Give user, currency and what is left of all credits: granted less applied less settled."""
        query = """
        SELECT user_id, currency, sum(cents) FROM (
            SELECT user_id, currency, carried_cents - credit_applied_cents AS cents FROM ledger_invoices
            WHERE state <> 'void'
            UNION ALL
            SELECT user_id, substr(content_hash, 1, 3), -CAST(substr(content_hash, 5) AS INTEGER)
            FROM ledger_decisions WHERE kind = 'credit_settled'
        ) GROUP BY 1, 2"""
        with sa.create_engine(self.platform.url).connect() as connection:
            return [(user, currency, cents) for user, currency, cents in connection.execute(sa.text(query))]
