"""`spell-billing readiness`: who will owe something for a month, and has no way to pay it."""

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from spell_billing.cli.common import (
    EXIT_USERS_LEFT,
    json_option,
    month_option,
    open_ledger,
    say,
    stripe_account,
    write_json,
)
from spell_billing.core.money import format_amounts
from spell_billing.core.month import Month

if TYPE_CHECKING:
    from spell_billing.reporting.readiness import Readiness


@click.command("readiness")
@month_option(required=False)
@json_option
def command(month: Month | None, *, as_json: bool) -> None:
    """Name users with usage in the present month, or another, who have no way to pay for it.

    No billing account, no customer at Stripe, or no default payment method. Ends with 3 when there are any.
    Asks Stripe about every such user's customer, at the usual pace; nothing is frozen, sent or stored.
    With ADMIN_SECRET and SPELL_BILLING_PUBLIC_URL, as `serve` has them, each user without a payment method
    has a link to Stripe's page for adding a card, good for 30 days: send it to this user alone.
    """
    from spell_billing.reporting.readiness import check_readiness, owing_so_far  # noqa: PLC0415 - heavy: the SDK
    from spell_billing.settings.billing import Settings  # noqa: PLC0415
    from spell_billing.usage.contract import SourceRules  # noqa: PLC0415 - heavy: Arrow
    from spell_billing.usage.source import open_usage_source  # noqa: PLC0415 - heavy: DuckDB
    from spell_billing.web.links import card_links  # noqa: PLC0415
    from spell_billing.web.settings import WebSettings  # noqa: PLC0415

    asked = month or Month.containing(datetime.now(UTC))
    card_link_of = card_links(WebSettings.from_environment(), datetime.now(UTC))
    stripe = stripe_account()
    settings = Settings.from_environment()
    source = open_usage_source(settings.usage_database, SourceRules(items_by=settings.line_items_by))
    owing = owing_so_far(source, asked, source.so_far(asked))
    with open_ledger() as ledger:
        found = stripe.work(ledger, lambda gateway: check_readiness(asked, owing, gateway))
    if as_json:
        write_json(found.as_json(card_link_of))
    else:
        _write(found, card_link_of)
    if found.unready:
        sys.exit(EXIT_USERS_LEFT)


def _write(found: "Readiness", card_link_of: Callable[[str], str] | None) -> None:
    from spell_billing.alerts.alert import users  # noqa: PLC0415
    from spell_billing.core.money import format_money  # noqa: PLC0415
    from spell_billing.reporting.readiness import REMEDIES, Gap  # noqa: PLC0415

    for each in found.unready:
        money = format_money(each.owing.cents, each.owing.currency, grouping=True)
        say(f"{each.owing.user_id}: {money}; {REMEDIES[each.gap]}")
        if card_link_of and each.gap is Gap.NO_PAYMENT_METHOD:
            say(f"    {card_link_of(each.owing.user_id)}")
    for gap, (number, sums) in found.by_gap().items():
        say(f"{gap}: {users(number)}, {format_amounts(sums)}")
    if found.unready:
        total = format_amounts(found.unready_cents)
        say(f"{found.month}: {len(found.unready):,} of {users(len(found.owing))} cannot pay {total}.")
    else:
        say(f"{found.month}: everyone who owes something can pay ({users(len(found.owing))}).")
