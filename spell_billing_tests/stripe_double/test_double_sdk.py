"""The real SDK reads what the double answers, and raises its own errors for refusals."""

import asyncio
import json
from typing import Any

import pytest
import stripe

from spell_billing.stripe_double import StripeDouble

LINE: Any = {
    "amount": 1234,
    "description": "Spell Platform API Usage - October 2026 (1234 calls, $12.34)",
    "period": {"start": 1_790_812_800, "end": 1_793_491_199},
    "metadata": {"calls": "1234"},
}


def test_an_invoice_goes_from_draft_to_paid_through_the_sdk(sdk: stripe.StripeClient) -> None:
    invoice = sdk.v1.invoices.create(
        {
            "customer": "cus_1",
            "auto_advance": False,
            "pending_invoice_items_behavior": "exclude",
            "description": "October",
            "metadata": {"spell_billing_key": "2026-10:user-0001:g1"},
        },
        {"idempotency_key": "first"},
    )
    assert isinstance(invoice, stripe.Invoice)
    assert (invoice.status, invoice.total, invoice.currency, invoice.auto_advance) == (
        "draft",
        0,
        "usd",
        False,
    )
    assert invoice.id.startswith("in_")
    assert invoice.metadata is not None
    assert invoice.metadata["spell_billing_key"] == "2026-10:user-0001:g1"

    filled = sdk.v1.invoices.add_lines(invoice.id, {"lines": [LINE]})
    line = filled.lines.data[0]
    assert filled.total == filled.amount_due == 1234
    assert (line.amount, line.description, line.currency) == (1234, LINE["description"], "usd")
    assert (line.period.start, line.period.end) == (1_790_812_800, 1_793_491_199)
    assert (line.metadata["calls"], line.quantity, line.invoice) == ("1234", 1, invoice.id)
    assert line.parent is not None
    assert line.parent.type == "invoice_item_details"
    assert line.pricing is not None
    assert str(line.pricing.unit_amount_decimal) == "1234"

    finalized = sdk.v1.invoices.finalize_invoice(invoice.id, {"auto_advance": True})
    assert finalized.status == "open"
    assert finalized.number is not None
    assert finalized.hosted_invoice_url is not None
    assert finalized.invoice_pdf is not None
    assert finalized.status_transitions.finalized_at == finalized.effective_at

    paid = sdk.v1.invoices.retrieve(invoice.id)
    assert (paid.status, paid.amount_paid, paid.amount_remaining, paid.attempt_count) == ("paid", 1234, 0, 1)
    assert paid.status_transitions.paid_at is not None


def test_every_kind_of_object_loads_in_the_sdk(sdk: stripe.StripeClient) -> None:
    customer = sdk.v1.customers.create({"email": "user-0001@example.com", "metadata": {"user": "user-0001"}})
    assert isinstance(sdk.v1.customers.retrieve(customer.id), stripe.Customer)
    item = sdk.v1.invoice_items.create({"customer": customer.id, "amount": 900, "currency": "usd"})
    assert isinstance(item, stripe.InvoiceItem)
    invoice = sdk.v1.invoices.create({"customer": customer.id, "pending_invoice_items_behavior": "include"})
    sdk.v1.invoices.finalize_invoice(invoice.id, {"auto_advance": True})
    charge = sdk.v1.charges.list({"customer": customer.id}).data[0]
    assert (charge.amount, charge.paid, charge.refunded) == (900, True, False)
    note = sdk.v1.credit_notes.create({"invoice": invoice.id, "amount": 400, "refund_amount": 400})
    assert (note.amount, note.status, note.post_payment_amount) == (400, "issued", 400)
    refund = sdk.v1.refunds.create({"charge": charge.id})
    assert (refund.amount, refund.status) == (500, "succeeded")
    assert sdk.v1.credit_notes.list({"invoice": invoice.id}).data[0].id == note.id
    assert sdk.v1.accounts.retrieve_current().charges_enabled is True
    event = sdk.v1.events.list({"type": "invoice.paid"}).data[0]
    assert isinstance(event.data.object, stripe.Invoice)
    assert event.data.object.id == invoice.id
    assert sdk.v1.events.retrieve(event.id).id == event.id


def test_auto_paging_meets_every_invoice_once(sdk: stripe.StripeClient) -> None:
    made = [sdk.v1.invoices.create({"customer": "cus_1"}).id for _ in range(7)]
    listed = [each.id for each in sdk.v1.invoices.list({"limit": 3}).auto_paging_iter()]
    assert listed == made[::-1]


def test_the_sdk_raises_its_own_errors(sdk: stripe.StripeClient, double: StripeDouble) -> None:
    with pytest.raises(stripe.InvalidRequestError) as missing:
        sdk.v1.invoices.retrieve("in_none")
    assert (missing.value.code, missing.value.http_status) == ("resource_missing", 404)
    with pytest.raises(stripe.AuthenticationError):
        sdk.v1.invoices.create({"customer": "cus_1"}, {"api_key": "sk_live_other"})
    sdk.v1.invoices.create({"customer": "cus_1"}, {"idempotency_key": "one"})
    with pytest.raises(stripe.IdempotencyError):
        sdk.v1.invoices.create({"customer": "cus_1", "description": "x"}, {"idempotency_key": "one"})
    double.arm("rate_limited")
    with pytest.raises(stripe.RateLimitError):
        sdk.v1.invoices.create({"customer": "cus_1"})
    double.arm("error_500_before")
    with pytest.raises(stripe.APIError):
        sdk.v1.invoices.create({"customer": "cus_1"})
    double.arm("lost_after")
    with pytest.raises(stripe.APIConnectionError):
        sdk.v1.invoices.create({"customer": "cus_1"})
    double.add_customer("cus_2", card="insufficient_funds")
    invoice = sdk.v1.invoices.create({"customer": "cus_2"})
    sdk.v1.invoices.add_lines(invoice.id, {"lines": [LINE]})
    sdk.v1.invoices.finalize_invoice(invoice.id)
    with pytest.raises(stripe.CardError) as declined:
        sdk.v1.invoices.pay(invoice.id)
    assert declined.value.code == "card_declined"


def test_raw_asynchronous_requests_work_over_aiohttp(
    double: StripeDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stripe, "enable_telemetry", False)

    async def bill() -> Any:
        transport = stripe.AIOHTTPClient()
        client = stripe.StripeClient(
            "sk_test_contract",
            base_addresses={"api": double.base_url},
            max_network_retries=0,
            http_client=transport,
        )
        try:

            async def post(path: str, **params: Any) -> Any:
                answer = await client.raw_request_async("post", path, **params)
                assert answer.code == 200
                return json.loads(answer.body)

            users = [post("/v1/invoices", customer="cus_1", metadata={"n": str(n)}) for n in range(20)]
            drafts = await asyncio.gather(*users)
            await asyncio.gather(
                *(post(f"/v1/invoices/{each['id']}/add_lines", lines=[LINE, LINE]) for each in drafts)
            )
            return await asyncio.gather(
                *(post(f"/v1/invoices/{each['id']}/finalize", auto_advance=True) for each in drafts)
            )
        finally:
            await transport.close_async()  # type: ignore[no-untyped-call] # the SDK's own gap

    finalized = asyncio.run(bill())
    assert [each["total"] for each in finalized] == [2468] * 20
    assert {each.status for each in double.invoices()} == {"paid"}
