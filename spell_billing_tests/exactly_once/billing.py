"""One real billing run: the ledger, the official SDK over HTTP and the driver, with quick pauses."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from pydantic import SecretStr

from spell_billing.core.month import Month
from spell_billing.core.outcomes import UNDONE
from spell_billing.invoicing.bill_month import bill_month
from spell_billing.invoicing.gateway import Gateway, Patience
from spell_billing.invoicing.pace import LOOPBACK, Pace
from spell_billing.invoicing.report import BillingReport, Outcome
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Actor
from spell_billing.ledger.session import MonthSession
from spell_billing.settings.databases import parse_database_url
from spell_billing.stripe_api.client import StripeApi

OCTOBER = Month(2026, 10)

_QUICK = Patience(first_pause_seconds=0.001, longest_pause_seconds=0.01, down_seconds=20.0)
LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class Run:
    """What a test asks for.

    `wait_seconds` is for the month's lock, `timeout_seconds` for each request; `kill_at_commit` is the number
    of the ledger's commit (from 1) at which the process is to kill itself, before it or `kill_after` it. With
    `notices`, a run whose ledger was restored holds what is left, as the job does.
    """

    database_url: str
    stripe_url: str
    verify: bool = False
    wait_seconds: float = 60.0
    timeout_seconds: float = 20.0
    kill_at_commit: int | None = None
    kill_after: bool = False
    notices: bool = False
    told: list[str] = field(default_factory=list)


def bill(run: Run) -> Outcome:
    """Bill October as the asset does, and give what became of it."""
    with opened(run) as (ledger, session):
        outcome = asyncio.run(send(session, run))
        if next(ledger.bills(OCTOBER, UNDONE), None) is None:
            session.finish_billing()
        BillingReport(LOG, to_drive=0).completed(outcome, ledger.bills(OCTOBER, UNDONE))
        return outcome


@contextmanager
def opened(run: Run) -> Iterator[tuple[Ledger, MonthSession]]:
    """Open the ledger and hold the month."""
    url = parse_database_url(run.database_url, setting="DATABASE_URL")
    with (
        Ledger(url) as ledger,
        ledger.session(
            OCTOBER, Actor("test", "run-1"), wait_seconds=run.wait_seconds, on_wait=run.told.append
        ) as session,
    ):
        yield ledger, session


async def send(session: MonthSession, run: Run, connect: Callable[..., StripeApi] = StripeApi) -> Outcome:
    """Drive the month at Stripe, through a connection of a kind of the test's own if it wants one."""
    async with gateway(run, connect) as opened_gateway:
        report = BillingReport(LOG, to_drive=0)
        return await bill_month(
            session, opened_gateway, report, verify=run.verify, holds_if_older=run.notices
        )


@asynccontextmanager
async def gateway(run: Run, connect: Callable[..., StripeApi] = StripeApi) -> AsyncIterator[Gateway]:
    """Open a gateway to Stripe."""
    key = SecretStr("sk_test_exactly_once")
    async with connect(key, run.stripe_url, timeout_seconds=run.timeout_seconds) as api:
        yield Gateway(api, Pace(LOOPBACK), _QUICK)
