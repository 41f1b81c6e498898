"""Customers who pay by transfer get their invoice by mail, on the terms that their bill was frozen with."""

from datetime import UTC, datetime, timedelta
from typing import Any

from spell_billing.core.outcomes import REMEDIES, Reason, State
from spell_billing.core.terms import Terms
from spell_billing.ledger.unpaid import due_steps
from spell_billing_tests.proof.small_platform import APRIL, MARCH, SmallPlatform

SENT: dict[str, Any] = {"collection": "send", "net_days": 14, "po_number": "PO 7", "footer": "Thank you"}
DAY_SECONDS = 24 * 3600


def test_an_invoice_goes_out_by_mail_and_waits_for_its_transfer(platform: SmallPlatform) -> None:
    platform.accounts("user-0001", **SENT)
    platform.accounts("user-0002")
    platform.double.add_customer("cus_user-0001", card="none")
    platform.calls(MARCH, ("user-0001", 1000), ("user-0002", 500))
    assert platform.bill(MARCH).invoiced == 2
    platform.double.advance()
    platform.bill(MARCH, verify=True)

    sent, charged = platform.standing()
    assert (sent.collection_method, sent.status, sent.attempt_count) == ("send_invoice", "open", 0)
    assert sent.due_date == sent.created + 14 * DAY_SECONDS
    assert (sent.custom_fields, sent.footer, sent.auto_advance) == (
        (("PO number", "PO 7"),),
        "Thank you",
        True,
    )
    assert (charged.collection_method, charged.due_date) == ("charge_automatically", None)
    assert platform.bill_of(MARCH, "user-0001").state is State.FINALIZED
    assert platform.bill_of(MARCH, "user-0002").terms is None
    assert platform.explain(MARCH, "user-0001")["bills"][0]["terms"] == {
        **SENT,
        "tax": "off",
        "discounts": False,
    }
    platform.must_agree(MARCH)


def test_the_terms_are_those_of_the_draft_whatever_the_account_says_later(platform: SmallPlatform) -> None:
    platform.accounts("user-0001", **SENT)
    platform.calls(MARCH, ("user-0001", 1000))
    platform.draft(MARCH)
    platform.source.execute("UPDATE billing_accounts SET net_days = 60, footer = NULL")
    platform.send(MARCH)

    (sent,) = platform.standing()
    assert sent.due_date == sent.created + 14 * DAY_SECONDS
    assert sent.footer == "Thank you"


def test_a_bill_that_is_drafted_again_has_the_terms_of_now(platform: SmallPlatform) -> None:
    platform.accounts("user-0001", **SENT)
    platform.calls(MARCH, ("user-0001", 1000))
    platform.bill(MARCH)
    platform.void(MARCH, "user-0001")
    platform.source.execute("UPDATE billing_accounts SET net_days = 60, po_number = NULL")
    platform.bill(MARCH)

    voided, anew = platform.generations(MARCH, "user-0001")
    assert voided.parsed_terms == Terms(**SENT)
    assert anew.parsed_terms == Terms("send", 60, None, "Thank you")
    (sent,) = platform.standing()
    assert sent.due_date == sent.created + 60 * DAY_SECONDS
    platform.must_agree(MARCH)


def test_bad_terms_fail_their_user_alone_until_they_are_corrected(platform: SmallPlatform) -> None:
    bad: dict[str, tuple[dict[str, Any], Reason]] = {
        "user-0001": ({"collection": "post"}, Reason.UNKNOWN_COLLECTION),
        "user-0002": ({"collection": "send", "net_days": -1}, Reason.INVALID_NET_DAYS),
        "user-0003": ({"po_number": "7" * 141}, Reason.TEXT_TOO_LONG),
    }
    for user, (columns, _) in bad.items():
        platform.accounts(user, **columns)
    platform.accounts("user-0004")
    platform.calls(MARCH, *((f"user-{number:04}", 1000) for number in range(1, 5)))

    assert platform.bill(MARCH).invoiced == 1
    for user, (_, reason) in bad.items():
        bill = platform.bill_of(MARCH, user)
        assert (bill.state, bill.reason, bill.why) == (State.FAILED, reason, REMEDIES[reason])
    assert platform.bill_of(MARCH, "user-0004").state is State.FINALIZED

    platform.source.execute(
        "UPDATE billing_accounts SET collection = 'send', net_days = 7, po_number = 'PO 7' "
        "WHERE user_id <> 'user-0004'"
    )
    assert platform.bill(MARCH).invoiced == 3
    assert {each.collection_method for each in platform.standing()[1:]} == {"send_invoice"}
    platform.must_agree(MARCH)


def test_an_altered_term_is_found_before_it_is_sent_and_afterwards(light_platform: SmallPlatform) -> None:
    platform = light_platform
    platform.accounts("user-0001", **SENT)
    for month in (MARCH, APRIL):
        platform.calls(month, ("user-0001", 1000))
    platform.bill(MARCH)
    platform.sql("UPDATE ledger_invoices SET terms = replace(terms, '14', '90')")

    assert platform.findings(MARCH) == [("user-0001", "content_altered")]


def test_own_dunning_leaves_invoices_alone_that_were_sent(platform: SmallPlatform) -> None:
    platform.accounts("user-0001", **SENT)
    platform.accounts("user-0002", footer='{"collection":"send"}')
    platform.calls(MARCH, ("user-0001", 1000), ("user-0002", 500))
    platform.bill(MARCH)
    later = datetime.now(UTC) + timedelta(days=3, hours=1)

    with platform.ledger() as ledger, ledger.reading() as connection:
        due = due_steps(connection, (3,), now=later, at_most_late=timedelta(days=7), limit=10)
    assert due == [(platform.bill_of(MARCH, "user-0002").stripe_invoice_id, 3)]
