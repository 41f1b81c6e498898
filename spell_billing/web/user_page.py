"""`/u/{token}`: a user's own page. Anyone with the link sees one user's data, and nobody else's."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from spell_billing.core.errors import SpellBillingError
from spell_billing.core.money import format_money
from spell_billing.core.month import Month
from spell_billing.core.open_month import METHOD
from spell_billing.core.outcomes import State
from spell_billing.ledger.browsing import BillKey, UserBill, bills_of
from spell_billing.ledger.rows import Bill
from spell_billing.web import cursors
from spell_billing.web.charts import Chart, Column, bar_chart
from spell_billing.web.context import WebContext
from spell_billing.web.errors import error_page
from spell_billing.web.facts import facts_of
from spell_billing.web.history_answers import invoice_of
from spell_billing.web.links import Link, links_of
from spell_billing.web.pages import page
from spell_billing.web.user_usage import Usage, read_usage

PAGE_INVOICES = 24
CHART_MONTHS = 12
_CHART_BILLS = 100
"""Bills of a year, with room for those that were voided and billed again."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Shown:
    """What the page is made of; `usage` is None where the platform's database did not answer in time."""

    bills: Sequence[UserBill]
    following: BillKey | None
    newest: Sequence[UserBill]
    usage: Usage | None


def user_page_routes(context: WebContext, *, read_only: bool) -> list[Route]:
    """Return the route of the page; it needs no secret, for the link is one."""
    return [Route("/u/{token}", _UserPage(context, read_only=read_only).show, methods=["GET"])]


def not_opened(link: Link | None) -> Response:
    """Return the page for a link that is not ours (None), or that has expired."""
    if link is None:
        return error_page(403, "This link is not valid", "Open the link as you were given it.")
    return error_page(410, "This link has expired", "Ask the platform for a new one.")


class _UserPage:
    def __init__(self, context: WebContext, *, read_only: bool) -> None:
        self._context = context
        self._takes_cards = context.settings.has_stripe_api_key and not read_only
        self._links = links_of(context)

    def show(self, request: Request) -> Response:
        token = request.path_params["token"]
        link = self._links.read(token)
        if link is None or link.is_over:
            return not_opened(link)
        before = None
        if "before" in request.query_params:
            before = cursors.unpack_month(request.query_params["before"])
            if before is None:
                return error_page(422, "There is no such page", "Go back to the first one.")
        facts_of(request.scope).who = f"user link {link.user_id}"
        shown = self._read(link.user_id, before)
        return page(
            "user.html",
            user_id=link.user_id,
            until=link.until,
            token=token,
            is_first=before is None,
            takes_cards=self._takes_cards,
            invoices=[invoice_of(each, internal=False) for each in shown.bills],
            following=cursors.pack(shown.following) if shown.following else None,
            usage=shown.usage,
            charts=cost_charts([each.bill for each in shown.newest], shown.usage),
            method=METHOD,
        )

    def _read(self, user_id: str, before: BillKey | None) -> _Shown:
        with self._context.ledger.reading() as connection:
            found = bills_of(connection, user_id, before=before, limit=PAGE_INVOICES + 1)
            newest = bills_of(connection, user_id, limit=_CHART_BILLS) if before is None else []
        usage = None
        if before is None:
            try:
                usage = read_usage(self._context, user_id, Month.containing(self._context.clock()))
            except SpellBillingError as error:
                _LOG.warning("a user's page is shown without the usage so far: %s", error.message)
        more, bills = len(found) > PAGE_INVOICES, found[:PAGE_INVOICES]
        last = bills[-1].bill if more else None
        return _Shown(bills, (last.month, last.generation) if last else None, newest, usage)


def cost_charts(bills: Sequence[Bill], usage: Usage | None) -> list[Chart]:
    """Lay out the cost of the latest twelve months, in a chart for each currency.

    Args:
        bills: The user's, newest first.
        usage: Of the present month.
    """
    costs: dict[str, dict[Month, int]] = {}
    for bill in reversed(bills):
        cents = 0 if bill.state is State.VOID else max(0, bill.total_cents)
        # A later generation takes the place of the one that was voided for it.
        costs.setdefault(bill.currency, {})[Month.parse(bill.month)] = cents
    if usage is not None and (usage.calls or usage.currency in costs):
        costs.setdefault(usage.currency, {})[Month.parse(usage.month)] = max(0, usage.due_cents)
    return [
        _chart(currency, by_month, usage if usage and usage.currency == currency else None)
        for currency, by_month in sorted(costs.items())
    ]


def _chart(currency: str, cents_by_month: dict[Month, int], usage: Usage | None) -> Chart:
    last = max(cents_by_month)
    first = max(min(cents_by_month), last.plus(1 - CHART_MONTHS))
    months = first.through(last)
    return bar_chart(
        f"cost-{currency if currency.isalnum() and currency.isascii() else 'other'}",
        f"Cost by month, in {currency.upper()}",
        unit="Cost",
        columns=[_column(month, cents_by_month.get(month, 0), currency, usage) for month in months],
        write=lambda cents: format_money(cents, currency, grouping=True),
    )


def _column(month: Month, cents: int, currency: str, usage: Usage | None) -> Column:
    so_far = usage is not None and usage.month == str(month)
    projection = usage.projection if usage is not None and so_far else None
    expected = max(0, projection.due_cents) if projection else None
    text = format_money(cents, currency, grouping=True)
    return Column(
        label=month.label[:3],
        name=month.label,
        value=cents,
        text=f"{text} so far" if so_far else text,
        expected=expected,
        expected_text=None if expected is None else format_money(expected, currency, grouping=True),
    )
