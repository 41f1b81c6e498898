"""What is given back in the dashboard is told to the platform, to operators and to the user, once."""

from datetime import UTC, datetime, timedelta

import pytest

from spell_billing.ledger.feed import read_feed
from spell_billing.ledger.mails import Mail, due_mails
from spell_billing.ledger.mails import fill as fill_mails
from spell_billing_tests.payments.test_money_back import credit_note, paid, refund
from spell_billing_tests.payments.world import ONE, World

__all__ = ["paid"]


def credits_to_mail(world: World) -> list[Mail]:
    with world.ledger() as ledger, ledger.reading() as connection:
        mails = due_mails(connection, datetime.max.replace(tzinfo=UTC), limit=100)
    return [each for each in mails if each.message.kind == "credited"]


@pytest.mark.parametrize(
    "shares",
    [None, {"refund_amount": 300}, {"credit_amount": 300}, {"out_of_band_amount": 300}],
    ids=["refund", "note with a refund", "note to the balance", "note outside of Stripe"],
)
def test_what_the_dashboard_gives_back_is_told_to_platform_operators_and_user_once(
    paid: World, shares: dict[str, int] | None
) -> None:
    with paid.ledger() as ledger, ledger.writing() as connection:
        fill_mails(connection, datetime.now(UTC))
    if shares is None:
        refund(paid, ONE, 300)
    else:
        credit_note(paid, ONE, 300, **shares)

    for _ in range(2):
        paid.tick()

    with paid.ledger() as ledger, ledger.reading() as connection:
        feed = [each for _, each in read_feed(connection, after=0, until=10**9, limit=100)]
    (event,) = [each for each in feed if each.type == "invoice.credited"]
    assert (event.user_id, event.total_cents, event.currency) == (ONE, 300, "usd")
    (mail,) = credits_to_mail(paid)
    assert mail.given_back is not None
    assert (mail.given_back.cents, mail.message.user_id) == (300, ONE)
    assert len([text for text in paid.web.texts if "$3.00" in text.splitlines()[0]]) == 1


@pytest.mark.parametrize("looked_days_ago", [None, 4])
def test_without_mail_or_where_it_was_switched_off_days_ago_none_waits(
    paid: World, looked_days_ago: int | None
) -> None:
    if looked_days_ago is not None:
        with paid.ledger() as ledger, ledger.writing() as connection:
            fill_mails(connection, datetime.now(UTC) - timedelta(days=looked_days_ago))
    refund(paid, ONE, 300)

    paid.tick()

    assert credits_to_mail(paid) == []
