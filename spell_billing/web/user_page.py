"""`/u/{token}`: a user's own page. Anyone with the link sees one user's data, and nobody else's."""

import logging
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from spell_billing.core.errors import SpellBillingError
from spell_billing.core.money import format_money
from spell_billing.core.month import Month
from spell_billing.core.open_month import METHOD
from spell_billing.core.outcomes import State
from spell_billing.ledger.browsing import bills_of
from spell_billing.ledger.rows import Bill
from spell_billing.web import cursors
from spell_billing.web.charts import Chart, Column, bar_chart
from spell_billing.web.context import WebContext
from spell_billing.web.errors import error_page
from spell_billing.web.facts import facts_of
from spell_billing.web.history_answers import invoice_of
from spell_billing.web.links import Link, links_of
from spell_billing.web.pages import page
from spell_billing.web.standing import Standing, Standings
from spell_billing.web.user_usage import Usage, read_usage

PAGE_INVOICES = 24
CHART_MONTHS = 12
_CHART_BILLS = 100
"""Bills of a year, with room for those that were voided and billed again."""
_LOG = logging.getLogger(__name__)


def user_page_routes(context: WebContext, *, read_only: bool) -> list[Route]:
    """Return the route of the page; it needs no secret, for the link is one."""
    takes_cards = context.settings.has_stripe_api_key and not read_only
    links = links_of(context)

    def show(request: Request) -> Response:
        token = request.path_params["token"]
        link = links.read(token)
        if link is None or link.is_over:
            return not_opened(link)
        before = None
        if "before" in request.query_params:
            before = cursors.unpack_month(request.query_params["before"])
            if before is None:
                return error_page(422, "There is no such page", "Go back to the first one.")
        facts_of(request.scope).who = f"user link {link.user_id}"
        is_first = before is None
        with context.ledger.reading() as connection:
            found = bills_of(connection, link.user_id, before=before, limit=PAGE_INVOICES + 1)
            newest = bills_of(connection, link.user_id, limit=_CHART_BILLS) if is_first else []
        last = found[PAGE_INVOICES - 1].bill if len(found) > PAGE_INVOICES else None
        usage = _usage_of(context, link.user_id) if is_first else None
        return page(
            "user.html",
            user_id=link.user_id,
            until=link.until,
            token=token,
            is_first=is_first,
            takes_cards=takes_cards,
            invoices=[invoice_of(each, internal=False) for each in found[:PAGE_INVOICES]],
            following=cursors.pack((last.month, last.generation)) if last else None,
            usage=usage,
            standing=_standing_of(request, link.user_id) if usage else None,
            charts=cost_charts([each.bill for each in newest], usage),
            method=METHOD,
        )

    return [Route("/u/{token}", show, methods=["GET"])]


def not_opened(link: Link | None) -> Response:
    """Return the page for a link that is not ours (None), or that has expired."""
    if link is None:
        return error_page(403, "This link is not valid", "Open the link as you were given it.")
    return error_page(410, "This link has expired", "Ask the platform for a new one.")


def _usage_of(context: WebContext, user_id: str) -> Usage | None:
    """Return the present month so far; None where the platform's database does not answer in time."""
    try:
        return read_usage(context, user_id, Month.containing(context.clock()))
    except SpellBillingError as error:
        _LOG.warning("a user's page is shown without the usage so far: %s", error.message)
        return None


def _standing_of(request: Request, user_id: str) -> Standing | None:
    """Return where a user with a spend limit stands; None without a limit, or where it cannot be read."""
    standings: Standings = request.app.state.standings
    try:
        standing = standings.of(user_id)
    except SpellBillingError as error:
        _LOG.warning("a user's page is shown without the spend limit: %s", error.message)
        return None
    return standing if standing is not None and standing.limit_cents is not None else None


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
        columns=[_column(month, cents_by_month.get(month, 0), usage) for month in months],
        write=lambda cents: format_money(cents, currency, grouping=True),
    )


def _column(month: Month, cents: int, usage: Usage | None) -> Column:
    is_so_far = usage is not None and usage.month == str(month)
    projection = usage.projection if usage is not None and is_so_far else None
    return Column(month, cents, max(0, projection.due_cents) if projection else None, is_so_far)
